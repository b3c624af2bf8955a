package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// from makes a request appear to come from an address, for a proxy that trusts
// those in front of it.
func from(r *http.Request, ip string) *http.Request {
	r.Header.Set("X-Forwarded-For", ip)
	return r
}

// servedSoon sends a request until it is served: a client can see the end of a
// response a moment before the proxy has done with the request.
func servedSoon(t *testing.T, c *client, request func() *http.Request) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		resp := c.do(t, request())
		if resp.StatusCode == 200 {
			return
		}
		expectLimit(t, resp.Response)
		if time.Now().After(deadline) {
			t.Fatal("something is still held for a request that has ended")
		}
	}
}

const trustLoopback = "trusted_proxies static 127.0.0.0/8"

// upstream.md §1: one client does not get all the connections. What it asks for
// beyond its part is refused at once, wherever it goes; others are served, and no
// destination is charged with it.
func TestLimits_PerClient(t *testing.T) {
	const alice, bob = "192.0.2.1", "192.0.2.2"
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{
			egress:  usual + "destination_circuit {\n failures 2\n open_for 1m\n}\ntransport {\n max_per_client 2\n pending_timeout 1m\n}\n",
			servers: trustLoopback,
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			release := newGate()
			t.Cleanup(release.open)
			origin, arrived := holding(t, release.c)
			other, _ := holding(t, release.c)
			var held []<-chan answer
			for range 2 {
				held = append(held, c.goTry(from(c.newRequest(t, "GET", origin.url("/hold"), nil), alice)))
				await(t, arrived, "a request")
			}
			for _, o := range []*rawOrigin{origin, other, origin, other} {
				expectLimit(t, c.do(t, from(c.newRequest(t, "GET", o.url("/"), nil), alice)).Response)
			}
			if n := other.count(); n != 0 {
				t.Errorf("%d connections for refused requests", n)
			}
			c.do(t, from(c.newRequest(t, "GET", origin.url("/"), nil), bob)).expect(t, 200, "done")
			if m.access {
				line := p.logs.wait(t, "the refusal", func(l logLine) bool {
					return l.isAccess() && l.str("request.host") == other.addr && l.num("status") == 503
				})
				if line.str("egress.blame") != "client" || line.str("egress.reason") != "connection_limit_reached" {
					t.Errorf("logged as %v", line["egress"])
				}
			}
			release.open()
			for _, a := range held {
				await(t, a, "a response").must(t).expect(t, 200, "done")
			}
			for range 3 {
				servedSoon(t, c, func() *http.Request { return from(c.newRequest(t, "GET", other.url("/"), nil), alice) })
			}
		})
	})
}

// What waits for a connection counts as well, until it leaves: served, refused
// or gone.
func TestLimits_PerClientCountsWaiters(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_conns_per_host 1\n max_per_client 2\n pending_timeout 1m\n}\n"})
		eachClient(t, p, func(t *testing.T, c *client) {
			origin, finish := c.holdOne(t)
			waiting := c.oneOfTwoWaits(t, origin)
			finish()
			await(t, waiting, "the waiter's response").must(t).expect(t, 200, "done")
			servedSoon(t, c, func() *http.Request { return c.newRequest(t, "GET", origin.url("/"), nil) })
		})
	})
}

// A second attempt belongs to the request that is counted already.
func TestLimits_PerClientRetry(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_per_client 1\n}\n"})
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			oc.ok(fmt.Sprint(oc.number))
			oc.request() // and closes instead of answering
		})
		c := p.client(t, "h1")
		c.get(t, origin.url("/")).expect(t, 200, "1")
		c.get(t, origin.url("/")).expect(t, 200, "2")
	})
}

// A client that goes away gives back what it held: three times in a row, where
// three are the limit.
func TestLimits_PerClientGone(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_per_client 3\n}\n"})
		eachClient(t, p, func(t *testing.T, c *client) {
			ended := make(chan struct{}, 8)
			origin := newRawOrigin(t, func(oc *originConn) {
				if oc.request().target != "/hold" {
					oc.ok("done")
					return
				}
				ended <- struct{}{}
				_ = oc.awaitEnd()
				ended <- struct{}{}
			})
			for range 3 {
				r, cancel := withCancel(c.newRequest(t, "GET", origin.url("/hold"), nil))
				gone := c.goTry(r)
				await(t, ended, "the request")
				cancel()
				<-gone
				await(t, ended, "the end of the connection")
				servedSoon(t, c, func() *http.Request { return c.newRequest(t, "GET", origin.url("/"), nil) })
			}
		})
	})
}

// The same per user, whatever address a user comes from.
func TestLimits_PerUser(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{
			egress: "hosts proxy.test\nbasic_auth ada one\nbasic_auth eve two\n" + openLoopback +
				"transport {\n max_per_user 1\n max_per_client 2\n}\n",
			servers: trustLoopback,
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			release := newGate()
			t.Cleanup(release.open)
			origin, arrived := holding(t, release.c)
			request := func(user, password, ip, path string) *http.Request {
				r := from(c.newRequest(t, "GET", origin.url(path), nil), ip)
				r.Header.Set("Proxy-Authorization", basic(user, password))
				return r
			}
			first := c.goTry(request("ada", "one", "192.0.2.1", "/hold"))
			await(t, arrived, "the first request")
			// A refusal for the user leaves nothing counted for the client:
			// else the third request of this address would be one too many.
			for range 3 {
				expectLimit(t, c.do(t, request("ada", "one", "192.0.2.2", "/")).Response)
			}
			for range 2 {
				servedSoon(t, c, func() *http.Request { return request("eve", "two", "192.0.2.2", "/") })
			}
			release.open()
			await(t, first, "the first response").must(t).expect(t, 200, "done")
			servedSoon(t, c, func() *http.Request { return request("ada", "one", "192.0.2.2", "/") })
		})
	})
}

// reuse_unsafe says which connections a POST may take.
func TestReuse_UnsafePolicies(t *testing.T) {
	checkLeaks(t)
	wanted := map[string][3]string{
		// after a GET over connection 1: a POST at once, a POST after two
		// seconds, a GET
		"never":  {"2", "3", "3"},
		"recent": {"1", "2", "2"},
		"always": {"1", "1", "1"},
	}
	proxies := map[string]*proxy{}
	first := &proxy{plain: freeAddr(t), secure: freeAddr(t), logs: newLogCapture(t), storage: t.TempDir()}
	config := first.config(t, setup{})
	for policy := range wanted {
		proxies[policy] = &proxy{plain: freeAddr(t)}
		config += plainSite(proxies[policy].plain, "", usual+"transport {\n reuse_unsafe "+policy+"\n}\n")
	}
	load(t, config)
	for policy, want := range wanted {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			origin := newRawOrigin(t, func(oc *originConn) {
				for {
					oc.request()
					oc.ok(fmt.Sprint(oc.number))
				}
			})
			c := proxies[policy].client(t, "h1")
			send := func(method, want string) {
				t.Helper()
				c.do(t, c.newRequest(t, method, origin.url("/"), nil)).expect(t, 200, want)
			}
			send(http.MethodGet, "1")
			send(http.MethodPost, want[0])
			time.Sleep(2100 * time.Millisecond) // the age itself is the test
			send(http.MethodPost, want[1])
			send(http.MethodGet, want[2])
		})
	}
}
