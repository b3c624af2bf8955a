package integration

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// This file contains that limits of a request are none of the tunnel that it began, and
// that the end of its client is.

// RFC 9113 §8.5, RFC 9114 §4.4: a client that resets its stream, or closes its
// connection, while its upload waits for the origin keeps no tunnel.
func TestTunnel_ResetWhileBlocked_RFC9113_8_5(t *testing.T) {
	for _, tc := range []struct {
		name, kind string
		leave      func(c *client, tun *tunnel)
	}{
		{"h1 reset", "h1", func(_ *client, tun *tunnel) { tun.Abort() }},
		{"h2 reset", "h2", func(_ *client, tun *tunnel) { tun.Abort() }},
		{"h2 closed", "h2", func(c *client, _ *tunnel) { _ = c.h2.Close() }},
		{"h3 reset", "h3", func(_ *client, tun *tunnel) { tun.Abort() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, mode{name: "plain"}, setup{egress: usual + "tunnel {\n max_tunnels 1\n}\n"})
			over := make(chan struct{})
			defer close(over)
			origin := newRawOrigin(t, func(oc *originConn) { oc.hold(over) })
			c := p.client(t, tc.kind)
			tun := c.open(t, origin.addr)
			var sent atomic.Int64
			written := make(chan struct{})
			go func() {
				defer close(written)
				for block := make([]byte, 64<<10); ; {
					n, err := tun.Write(block)
					if sent.Add(int64(n)); err != nil {
						return
					}
				}
			}()
			last, quiet := int64(0), 0
			eventually(t, "the upload to get stuck", func() bool {
				if now := sent.Load(); now == 0 || now != last {
					last, quiet = now, 0
				} else {
					quiet++
				}
				time.Sleep(10 * time.Millisecond)
				return quiet == 30
			})
			tc.leave(c, tun)
			await(t, written, "the end of the writes")
			another := p.client(t, "h1")
			eventually(t, "the place of the tunnel to be free", func() bool {
				resp, tun := another.connect(t, origin.addr, "", nil)
				tun.Close()
				return resp.StatusCode == http.StatusOK
			})
		})
	}
}

// What a client has sent whole goes to the origin, though its stream is reset behind that.
func TestTunnel_ResetBehindTheEnd(t *testing.T) {
	p := start(t, mode{name: "plain"}, setup{egress: usual + "tunnel {\n rate_per_tunnel 500KB\n}\n"})
	const size = 800 << 10
	type upload struct {
		size int64
		err  error
	}
	got := make(chan upload, 1)
	origin := newRawOrigin(t, func(oc *originConn) {
		n, err := io.Copy(io.Discard, oc.br)
		got <- upload{n, err}
	})
	f := p.dialFrames(t)
	stream := f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
	if status := f.answer(stream); status != "200" {
		t.Fatal(status)
	}
	for left := size; left > 0; left -= 16 << 10 {
		if err := f.WriteData(stream, left == 16<<10, make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	if u := await(t, got, "the end of the upload"); u.size != size || u.err != nil {
		t.Errorf("the origin got %d bytes, then %v", u.size, u.err)
	}
}

// The server's timeouts for a request, and a limit for its body, do not end a tunnel.
func TestTunnel_LimitsOfRequests(t *testing.T) {
	for name, s := range map[string]setup{
		"read_body":        {servers: "timeouts {\n read_body 500ms\n}\n"},
		"write":            {servers: "timeouts {\n write 500ms\n}\n"},
		"max_size":         {global: "order egress after request_body", site: "request_body {\n max_size 1000\n}\n"},
		"max_size and log": {global: "order egress after request_body", site: "log\nrequest_body {\n max_size 1000\n}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, mode{name: "plain"}, s)
			origin := newEchoOrigin(t)
			tunnels := make(map[string]*tunnel)
			for _, kind := range clientKinds {
				tunnels[kind] = p.client(t, kind).open(t, origin.addr)
			}
			for until := time.Now().Add(time.Second); ; time.Sleep(100 * time.Millisecond) { // the limits are over
				late := time.Now().After(until)
				for kind, tun := range tunnels {
					if _, err := io.WriteString(tun, strings.Repeat("x", 500)); err != nil {
						t.Fatalf("%s: %v", kind, err)
					}
					if n, err := io.ReadFull(tun, make([]byte, 500)); err != nil {
						t.Fatalf("%s: %d bytes, then %v", kind, n, err)
					}
				}
				if late {
					return
				}
			}
		})
	}
}
