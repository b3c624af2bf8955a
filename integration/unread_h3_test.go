package integration

import (
	"io"
	"net/http"
	"sync"
	"testing"
)

// This file contains clients of HTTP/3 that stop to read: their windows hold what the
// origin sends, of one stream or of the connection.

// endless is an origin that sends without an end, after a head for requests. gone is closed
// when its first connection has ended.
func endless(t *testing.T, head string) (authority string, gone chan struct{}) {
	t.Helper()
	gone = make(chan struct{})
	var once sync.Once
	o := newRawOrigin(t, func(oc *originConn) {
		defer once.Do(func() { close(gone) })
		if head != "" {
			oc.head()
			oc.send(head)
		}
		for block := make([]byte, 64<<10); ; {
			if _, err := oc.Conn.Write(block); err != nil {
				return
			}
		}
	})
	return o.addr, gone
}

// unread asks for a response that does not end, and reads its head alone.
func (c *client) unread(t *testing.T) (body io.ReadCloser, gone chan struct{}) {
	t.Helper()
	authority, gone := endless(t, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
	resp, err := c.rt.RoundTrip(c.newRequest(t, http.MethodGet, "http://"+authority+"/", nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp.Body, gone
}

// An exchange whose client reads nothing of its stream keeps its place at the origin for
// write_idle, whether the window of the stream is used up or that of the connection. The
// client sees that the response is cut, and its connection goes on.
func TestExchange_H3ClientThatReadsNothing(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{
			egress:  "allow_unauthenticated\nhosts proxy.test\n" + openLoopback,
			servers: "timeouts {\n write_idle 500ms\n}\n",
		})
		c := p.client(t, "h3")
		var bodies [3]io.Reader // of which two use up the window of the connection
		var ends [len(bodies)]chan struct{}
		for i := range bodies {
			bodies[i], ends[i] = c.unread(t)
		}
		for i, body := range bodies {
			await(t, ends[i], "the end of the origin's connection")
			if _, err := io.Copy(io.Discard, body); err == nil {
				t.Error("the response has ended, and was not cut")
			}
		}
		o := newRawOrigin(t, func(oc *originConn) {
			oc.head()
			oc.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		})
		c.get(t, o.url("/")).expect(t, http.StatusOK, "ok")
	})
}

// A tunnel whose client reads nothing is ended by the limits of tunnels, and its part of them
// is free then.
func TestTunnel_H3ClientThatReadsNothing(t *testing.T) {
	for _, limit := range []string{"timeout 500ms", "idle_timeout 500ms"} {
		t.Run(limit, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: "allow_unauthenticated\nhosts proxy.test\n" + openLoopback +
					"tunnel {\n " + limit + "\n max_tunnels 1\n}\n"})
				authority, gone := endless(t, "")
				tun := p.client(t, "h3").open(t, authority)
				await(t, gone, "the end of the origin's connection")
				if _, err := io.Copy(io.Discard, tun); err == nil {
					t.Error("the tunnel has ended, and was not cut")
				}
				echo := newRawOrigin(t, func(oc *originConn) { _ = oc.awaitEnd() })
				other := p.client(t, "h3")
				eventually(t, "the place of the tunnel to be free", func() bool {
					resp, tun := other.connect(t, echo.addr, "", nil)
					tun.Close()
					return resp.StatusCode == http.StatusOK
				})
			})
		})
	}
}

// write_idle is no limit of a tunnel: one whose client reads nothing goes on when it reads
// again, after an exchange that was stuck for less time has been ended.
func TestTunnel_H3UnreadBeyondWriteIdle(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{
			egress:  "allow_unauthenticated\nhosts proxy.test\n" + openLoopback,
			servers: "timeouts {\n write_idle 500ms\n}\n",
		})
		authority, _ := endless(t, "")
		tun := p.client(t, "h3").open(t, authority)
		for range 2 { // the first began when the tunnel perhaps was not stuck yet
			_, gone := p.client(t, "h3").unread(t)
			await(t, gone, "the end of the exchange")
		}
		const beyondWindows = 8 << 20
		if n, err := io.CopyN(io.Discard, tun, beyondWindows); err != nil {
			t.Errorf("the tunnel ended after %d bytes: %v", n, err)
		}
	})
}
