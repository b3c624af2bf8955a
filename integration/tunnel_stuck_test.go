package integration

import (
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// A client of HTTP/2 that stops to read its connection in the middle of a transfer keeps
// neither its tunnel, when that is over, nor its part of the limits.
func TestTunnel_ClientThatReadsNothing(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: "allow_unauthenticated\nhosts proxy.test\n" + openLoopback +
			"tunnel {\n timeout 500ms\n max_tunnels 1\n}\n"})
		gone := make(chan struct{})
		origin := newRawOrigin(t, func(oc *originConn) {
			defer close(gone)
			for block := make([]byte, 64<<10); ; {
				if _, err := oc.Conn.Write(block); err != nil {
					return
				}
			}
		})
		f := p.dialUnread(t)
		f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
		await(t, gone, "the end of the origin's connection")
		echo := newRawOrigin(t, func(oc *originConn) { _ = oc.awaitEnd() })
		c := p.client(t, "h1tls")
		eventually(t, "the place of the tunnel to be free", func() bool {
			resp, tun := c.connect(t, echo.addr, "", nil)
			tun.Close()
			return resp.StatusCode == http.StatusOK
		})
	})
}

// An exchange whose client reads nothing, of its connection or of its stream, keeps its
// place at the origin for write_idle.
func TestExchange_ClientThatReadsNothing(t *testing.T) {
	p := start(t, mode{}, setup{
		egress:  "allow_unauthenticated\nhosts proxy.test\n" + openLoopback,
		servers: "timeouts {\n write_idle 1s\n}\n",
	})
	overH1 := func(c *rawConn, authority string) {
		c.send("GET http://" + authority + "/ HTTP/1.1\r\nHost: " + authority + "\r\n\r\n")
	}
	overH2 := func(f *framed, authority string) {
		f.headers(true, ":method", "GET", ":scheme", "http", ":authority", authority, ":path", "/")
	}
	for name, ask := range map[string]func(t *testing.T, authority string){
		"h1":                   func(t *testing.T, authority string) { overH1(p.dialPlain(t), authority) },
		"h1tls":                func(t *testing.T, authority string) { overH1(p.dialSecure(t), authority) },
		"h2":                   func(t *testing.T, authority string) { overH2(p.dialUnread(t), authority) },
		"h2, a window used up": func(t *testing.T, authority string) { overH2(p.dialFrames(t), authority) },
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			origin := newRawOrigin(t, func(oc *originConn) {
				defer close(gone)
				oc.head()
				oc.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
				for block := make([]byte, 64<<10); ; {
					if _, err := oc.Conn.Write(block); err != nil {
						return
					}
				}
			})
			ask(t, origin.addr)
			await(t, gone, "the end of the origin's connection")
		})
	}
}

// dialUnread connects over HTTP/2, with windows that hold nothing back, to a client that
// takes next to nothing as long as nobody reads.
func (p *proxy) dialUnread(t *testing.T) *framed {
	t.Helper()
	f := p.dialFrames(t)
	_ = f.conn.NetConn().(*net.TCPConn).SetReadBuffer(32 << 10)
	const large = 1 << 30
	_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: large})
	_ = f.WriteWindowUpdate(0, large)
	return f
}
