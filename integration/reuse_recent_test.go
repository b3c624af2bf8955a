package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// upstream.md §1: a connection that has authenticated itself (NTLM, Negotiate)
// belongs to its client: nobody else's request goes over it.
func TestReuse_AuthenticatedConnection(t *testing.T) {
	for _, scheme := range []string{"NTLM", "Negotiate", "ntlm"} {
		t.Run(scheme, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				origin := newRawOrigin(t, func(oc *originConn) {
					who := "nobody"
					for {
						r := oc.request()
						if a := r.header.Get("Authorization"); a != "" {
							who = "alice"
						}
						oc.ok(who)
					}
				})
				alice, bob := p.client(t, "h1"), p.client(t, "h1")
				r := alice.newRequest(t, "GET", origin.url("/"), nil)
				r.Header.Set("Authorization", scheme+" TlRMTVNTUAAD")
				alice.do(t, r).expect(t, 200, "alice")
				bob.get(t, origin.url("/")).expect(t, 200, "nobody")
			})
		})
	}
}

// upstream.md §1: a request that must not be sent twice takes a connection that
// was idle for less than two seconds, or a new one.
func TestReuse_UnsafeTakesRecent(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		numbered := func(oc *originConn) {
			for {
				oc.request()
				oc.ok(fmt.Sprint(oc.number))
			}
		}
		unsafe, safe := newRawOrigin(t, numbered), newRawOrigin(t, numbered)
		c := p.client(t, "h1")
		send := func(method string, o *rawOrigin, want string) {
			t.Helper()
			c.do(t, c.newRequest(t, method, o.url("/"), nil)).expect(t, 200, want)
		}
		send(http.MethodGet, safe, "1")
		send(http.MethodGet, unsafe, "1")
		send(http.MethodPost, unsafe, "1")
		time.Sleep(2100 * time.Millisecond) // the age itself is the test
		send(http.MethodPost, unsafe, "2")
		send(http.MethodPatch, unsafe, "2")
		send(http.MethodGet, safe, "1")
	})
}

// An origin that says how long it keeps idle connections is believed, with a
// second to spare: a connection that it closes just now is not taken.
func TestReuse_KeepAliveTimeout(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				oc.request()
				body := fmt.Sprint(oc.number)
				oc.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			}
		})
		c := p.client(t, "h1")
		asked := time.Now()
		c.get(t, origin.url("/")).expect(t, 200, "1")
		again := c.get(t, origin.url("/"))
		if time.Since(asked) < time.Second {
			again.expect(t, 200, "1")
		}
		time.Sleep(1100 * time.Millisecond) // the age itself is the test
		if late := c.get(t, origin.url("/")); late.body == again.body {
			t.Errorf("connection %s was taken, which its origin is about to close", late.body)
		}
	})
}
