package integration

import (
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// realUpstreams start a real proxy each, and say how it is written in the
// configuration.
var realUpstreams = []struct {
	name  string
	start func(t *testing.T) string
}{
	{"squid", func(t *testing.T) string {
		return "upstream http://" + peertest.Squid(t, peers.SquidOptions{}).Addr
	}},
	{"squid with a password", func(t *testing.T) string {
		return "upstream http://alice:s%20cret@" + peertest.Squid(t, peers.SquidOptions{User: "alice", Password: "s cret"}).Addr
	}},
	{"squid over TLS", func(t *testing.T) string {
		p := peertest.Squid(t, peers.SquidOptions{TLS: true})
		return "upstream https://" + p.Addr + " {\n tls_trust_pool file " + certificateOf(t, p.Addr) + "\n}"
	}},
	{"squid with PROXY protocol", func(t *testing.T) string {
		return "upstream http://" + peertest.Squid(t, peers.SquidOptions{ProxyProtocol: true}).Addr + " {\n proxy_protocol v2\n}"
	}},
	{"tinyproxy", func(t *testing.T) string {
		return "upstream http://" + peertest.Tinyproxy(t, peers.TinyproxyOptions{}).Addr
	}},
	{"nghttpx", func(t *testing.T) string {
		p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
		return "upstream https://" + p.Addr + " {\n tls_insecure_skip_verify\n}"
	}},
	{"microsocks", func(t *testing.T) string {
		return "upstream socks5h://" + peertest.Microsocks(t, peers.MicrosocksOptions{}).Addr
	}},
	{"microsocks with a password", func(t *testing.T) string {
		p := peertest.Microsocks(t, peers.MicrosocksOptions{User: "alice", Password: "secret"})
		return "upstream socks5://" + p.Addr + " {\n credentials alice secret\n}"
	}},
}

// certificateOf writes the certificate that a server shows into a file.
func certificateOf(t *testing.T, addr string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is what we are after
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	path := filepath.Join(t.TempDir(), "ca.crt")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: chain[len(chain)-1].Raw}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Through real upstream proxies: exchanges for http and https, and tunnels, from
// clients of all protocols.
func TestUpstream_RealPeers(t *testing.T) {
	for _, u := range realUpstreams {
		t.Run(u.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, mode{access: true}, setup{egress: usual + "transport {\n tls_insecure_skip_verify\n}\n" + u.start(t)})
			origin, _ := recorder(t, okResponse)
			secure := newRawTLSOrigin(t, func(oc *originConn) {
				for {
					oc.request()
					oc.ok("secure")
				}
			})
			echo := newEchoOrigin(t)
			eachClient(t, p, func(t *testing.T, c *client) {
				for range 3 {
					c.get(t, origin.url("/")).expect(t, 200, "ok")
				}
				if c.kind == "h1" {
					r := p.dialPlain(t).roundTrip("GET", "GET https://"+secure.addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
					if r.StatusCode != 200 || r.body != "secure" {
						t.Errorf("https: %d %q", r.StatusCode, r.body)
					}
				}
				for range 3 {
					tun := c.open(t, echo.addr)
					alive(t, tun, "the tunnel")
					tun.Close()
				}
			})
		})
	}
}

// tinyproxy goes on relaying behind a response without a body. An origin that keeps its
// connection open must not get what is meant for another one.
func TestUpstream_TinyproxyRelaysOn(t *testing.T) {
	for name, answer := range map[string]string{
		"HEAD":    "HTTP/1.1 200 OK\r\nVia: 1.1 forged\r\nContent-Length: 5\r\n\r\n",
		"empty":   "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"no body": "HTTP/1.1 204 No Content\r\n\r\n",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"103":     "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"100":     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	} {
		for _, via := range []string{"No", "Yes"} {
			t.Run(name+" without Via "+via, func(t *testing.T) {
				checkLeaks(t)
				peer := peertest.Tinyproxy(t, peers.TinyproxyOptions{Config: []string{"DisableViaHeader " + via}})
				p := start(t, mode{}, setup{egress: usual + "upstream http://" + peer.Addr})
				good := okOrigin(t)
				bad := newRawOrigin(t, func(oc *originConn) {
					for {
						if target := strings.Fields(oc.head())[1]; target != "/bad" {
							t.Errorf("the other origin was asked for %s", target)
						}
						oc.send(answer)
					}
				})
				c := p.client(t, "h1")
				c.get(t, good.URL+"/good").expect(t, 200, "ok")
				for range 3 {
					if name == "HEAD" {
						c.do(t, c.newRequest(t, "HEAD", bad.url("/bad"), nil))
					} else {
						c.get(t, bad.url("/bad"))
					}
					c.get(t, good.URL+"/good").expect(t, 200, "ok")
				}
			})
		}
	}
}

// Behind a response that tinyproxy would go on relaying behind, a connection is used again
// only where the parent is known by its Via to be another program: not where it adds none,
// whatever an origin writes.
func TestUpstream_ReuseBehindNoContent(t *testing.T) {
	const with, without = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n"
	via := func(answer string) string {
		return strings.Replace(answer, "\r\n", "\r\nVia: 1.1 parent (squid/6.6)\r\n", 1)
	}
	const interim = "HTTP/1.1 103 Early Hints\r\n\r\n" + with
	for name, tc := range map[string]struct {
		answers []string
		conns   int
	}{
		"known":                  {[]string{via(without), via(without), "HTTP/1.1 103 Early Hints\r\n\r\n" + via(with), via(with)}, 1},
		"unknown, with content":  {[]string{with, with, with}, 1},
		"unknown, no content":    {[]string{without, without, without}, 3},
		"unknown, informational": {[]string{interim, interim}, 2},
		"unknown, chunked":       {[]string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", with}, 2},
		"forged":                 {[]string{with, via(without), via(without), with}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				var n atomic.Int32
				parent := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
					oc.send(tc.answers[n.Add(1)-1])
					return true
				})
				p := start(t, m, setup{egress: group("", parent.addr)})
				c := p.client(t, "h1")
				for range tc.answers {
					c.get(t, "http://one.test/")
				}
				if got := parent.count(); got != tc.conns {
					t.Errorf("%d connections, want %d", got, tc.conns)
				}
			})
		})
	}
}

// A parent that has named itself tinyproxy once, be it in an informational response, gets
// each further exchange on a connection of its own, also where it does not do so again.
func TestUpstream_OneExchangeAfterTinyproxysVia(t *testing.T) {
	for name, first := range map[string]string{
		"interim": "HTTP/1.1 103 Early Hints\r\nVia: 1.1 parent (tinyproxy/1.11.1)\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"final":   "HTTP/1.1 200 OK\r\nVia: 1.1 other, 1.1 parent (tinyproxy/1.11.1)\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				held, release := make(chan struct{}), make(chan struct{})
				parent := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
					switch r.target {
					case "http://one.test/before":
						close(held)
						oc.hold(release)
						oc.ok("")
					case "http://one.test/named":
						oc.send(first)
					default:
						oc.ok("")
					}
					return true
				})
				p := start(t, m, setup{egress: group("", parent.addr)})
				c := p.client(t, "h1")
				before := make(chan struct{})
				go func() {
					defer close(before)
					p.client(t, "h1").get(t, "http://one.test/before").expect(t, 200, "")
				}()
				await(t, held, "a request that is under way meanwhile")
				c.get(t, "http://one.test/named").expect(t, 200, "")
				close(release)
				await(t, before, "its answer")
				for range 3 {
					c.get(t, "http://two.test/").expect(t, 200, "")
				}
				if asked, conns := parent.asked(), parent.count(); asked != 5 || conns != 5 {
					t.Errorf("%d exchanges on %d connections", asked, conns)
				}
			})
		})
	}
}
