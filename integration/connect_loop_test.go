package integration

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// A CONNECT that comes back to the proxy by way of an upstream is refused with 508, as
// an exchange is: over HTTP/1.1 and HTTP/2, and also the CONNECT for an exchange with an
// https origin.
func TestLoop_Connect(t *testing.T) {
	for _, kind := range []string{"http", "https"} {
		t.Run(kind, func(t *testing.T) {
			var proxy atomic.Pointer[string] // what the upstream leads to
			back := newRawOrigin(t, func(oc *originConn) {
				far, err := net.Dial("tcp", *proxy.Load())
				if err != nil {
					oc.fail("%v", err)
					return
				}
				defer far.Close()
				go func() {
					_, _ = io.Copy(far, oc.br)
					far.Close()
				}()
				_, _ = io.Copy(oc.Conn, far)
			})
			block := ""
			if kind == "https" {
				block = " {\n tls_server_name proxy.test\n tls_trust_pool file " + caFile(t) + "\n}"
			}
			p := start(t, mode{access: true}, setup{egress: usual + "tunnel {\n max_tunnels 30\n}\nupstream " + kind + "://" + back.addr + block + "\n"})
			proxy.Store(map[string]*string{"http": &p.plain, "https": &p.secure}[kind])
			eachClient(t, p, func(t *testing.T, c *client) {
				before := back.count()
				resp, _ := c.connect(t, "far.test:443", "", nil)
				expectError(t, resp, 508, "proxy_loop_detected")
				// Those of the other site pass through two handlers, of which each is
				// a proxy with a mark of its own.
				if n := back.count() - before; n > 2 {
					t.Errorf("it went round %d times", n)
				}
			})
			c := p.dialH1(t, "h1")
			c.send("GET https://far.test/ HTTP/1.1\r\nHost: far.test\r\n\r\n")
			if resp := c.response("GET"); resp.StatusCode != 508 {
				t.Errorf("https exchange: status %d; want 508", resp.StatusCode)
			}
		})
	}
}

// RFC 9110 §7.6.3: CONNECT to an upstream has the client's Via, by which others find
// their loops, with ours behind it; hide_via leaves out ours.
func TestConnect_Via_RFC9110_7_6_3(t *testing.T) {
	for _, hide := range []bool{false, true} {
		t.Run("hidden "+strconv.FormatBool(hide), func(t *testing.T) {
			requests := make(chan *originRequest, 16)
			up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
				requests <- r
				oc.send("HTTP/1.1 200 OK\r\n\r\nx")
				_ = oc.awaitEnd()
				return false
			})
			options := ""
			if hide {
				options = "hide_via\n"
			}
			p := start(t, mode{}, setup{egress: options + group("", up.addr)})
			c := p.dialH1(t, "h1")
			c.send("CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\nVia: 1.0 before\r\n\r\n")
			if resp := c.responseHead("CONNECT"); resp.StatusCode != 200 {
				t.Fatalf("status %d", resp.StatusCode)
			}
			via := await(t, requests, "the CONNECT").header["Via"]
			own := len(via) == 2 && strings.HasPrefix(via[1], "1.1 caddy (egress-")
			if len(via) == 0 || via[0] != "1.0 before" || own == hide {
				t.Errorf("Via %q", via)
			}
		})
	}
}

// A loop through a SOCKS proxy has no Via: it takes a bounded number of connections,
// and ends with the time of the first attempt.
func TestLoop_SOCKSIsBounded(t *testing.T) {
	plain := freeAddr(t)
	up := newRawOrigin(t, func(oc *originConn) { socksInto(oc, plain) })
	p := start(t, mode{}, setup{plain: plain, egress: usual + "upstreams default {\n upstream socks5h://" + up.addr + "\n attempt_timeout 1s\n lb_retries off\n}\n"})
	resp, _ := p.client(t, "h1").connect(t, "far.test:443", "", nil)
	if resp.StatusCode < 500 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if n := up.count(); n < 2 || n > 8192 {
		t.Errorf("it went round %d times; want some, and no more than 8,192", n)
	}
}

// socksInto is a SOCKS proxy whose own parent is a proxy that speaks HTTP.
func socksInto(oc *originConn, parent string) {
	if _, err := io.ReadFull(oc.br, make([]byte, 3)); err != nil {
		return
	}
	oc.send("\x05\x00")
	head := make([]byte, 5)
	if _, err := io.ReadFull(oc.br, head); err != nil {
		return
	}
	if _, err := io.ReadFull(oc.br, make([]byte, int(head[4])+2)); err != nil {
		return
	}
	conn, err := net.Dial("tcp", parent)
	if err != nil {
		return
	}
	defer conn.Close()
	go func() {
		_ = oc.awaitEnd()
		conn.Close()
	}()
	if _, err := conn.Write([]byte("CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n")); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // whatever it is: no tunnel
	}
}
