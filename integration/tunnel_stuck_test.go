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
		f := p.dialFrames(t)
		_ = f.conn.NetConn().(*net.TCPConn).SetReadBuffer(32 << 10)
		const large = 1 << 30
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: large})
		_ = f.WriteWindowUpdate(0, large)
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
