package integration

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
)

// poison is what no request may ever see.
const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

// beginOrigin starts an origin and returns the beginning of its URLs as well.
type beginOrigin func(t *testing.T, script func(*originConn)) (*rawOrigin, string)

// eachOrigin runs f with origins in clear and with TLS.
func eachOrigin(t *testing.T, f func(t *testing.T, begin beginOrigin)) {
	t.Helper()
	t.Run("http origin", func(t *testing.T) {
		f(t, func(t *testing.T, script func(*originConn)) (*rawOrigin, string) {
			o := newRawOrigin(t, script)
			return o, "http://" + o.addr
		})
	})
	t.Run("https origin", func(t *testing.T) {
		f(t, func(t *testing.T, script func(*originConn)) (*rawOrigin, string) {
			o := newRawTLSOrigin(t, script)
			return o, "https://" + o.addr
		})
	})
}

// trusting is the usual setup, with the certificates of the origins trusted and
// response heads of 8 KiB at most.
func trusting(t *testing.T) setup {
	return setup{egress: usual + "transport {\n max_response_header 8KiB\n tls_trust_pool file " + caFile(t) + "\n}\n"}
}

// upstream.md §1, "pool poisoning": whatever an origin sends beside the answer to
// one request, its connection dies of it, and no other request sees a byte of it.
func TestPoison(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	for _, tc := range []struct {
		name, method string
		response     string // to the first request
		later        string // when the client has its answer
		status       int    // of the first answer
	}{
		{"unsolicited while idle", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", poison, 200},
		{"one byte while idle", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "H", 200},
		{"behind length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + poison, "", 200},
		{"behind chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, "", 200},
		{"body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n" + poison, "", 200},
		{"body of HEAD later", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n", poison, 200},
		{"body of 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n" + poison, "", 204},
		{"body of 204 later", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 48\r\n\r\n", poison, 204},
		{"body of 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 48\r\n\r\n" + poison, "", 304},
		{"body of 304 later", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 48\r\n\r\n", poison, 304},
		{"chunked body of 304", "GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, "", 304},
		{"both framings", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison, "", 502},
		{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 50\r\n\r\nok" + poison, "", 502},
		{"too many 1xx", "GET", strings.Repeat(hint, 300) + poison, "", 502},
		{"1xx with a length", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 48\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", 200},
		{"1xx with chunks", "GET", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", 200},
		{"1xx that closes", "GET", "HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", 200},
		{"oversized head", "GET", "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 9000) + "\r\n\r\n" + poison, "", 502},
		{"oversized 1xx", "GET", "HTTP/1.1 103 Early Hints\r\nX-Long: " + strings.Repeat("x", 9000) + "\r\n\r\n" + poison, "", 502},
		{"unasked 101", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + poison, "", 502},
		{"challenge for proxies", "GET", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n" + poison, "", 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachOrigin(t, func(t *testing.T, begin beginOrigin) {
				eachMode(t, func(t *testing.T, m mode) {
					p := start(t, m, trusting(t))
					answered, spoilt, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}, 4)
					_, url := begin(t, func(oc *originConn) {
						oc.request()
						if oc.number > 1 {
							oc.ok("clean")
							return
						}
						oc.send(tc.response)
						if tc.later != "" {
							oc.hold(answered)
							oc.send(tc.later)
						}
						close(spoilt)
						_ = oc.awaitEnd()
						ended <- struct{}{}
					})
					raw := p.dialPlain(t)
					raw.send(tc.method + " " + url + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
					resp := raw.response(tc.method)
					for resp.StatusCode == 103 {
						resp = raw.response(tc.method)
					}
					if resp.StatusCode != tc.status || strings.Contains(resp.head+resp.body, "poison") {
						t.Errorf("got %d %q", resp.StatusCode, resp.body)
					}
					close(answered)
					await(t, spoilt, "the poison")
					for range 2 {
						next := p.dialPlain(t).roundTrip("GET", "GET "+url+"/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
						if next.StatusCode != 200 || next.body != "clean" {
							t.Errorf("the next request got %d %q", next.StatusCode, next.body)
						}
					}
					await(t, ended, "the end of the poisoned connection")
				})
			})
		})
	}
}

// A response that was there before its request answers nobody. TLS 1.2, where
// the server speaks last in the handshake, puts it reliably in front: it comes in
// one segment with the end of the handshake.
func TestPoison_ResponseBeforeRequest(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, trusting(t))
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		config := testCA().serverTLS("127.0.0.1", "localhost")
		config.MaxVersion = tls.VersionTLS12
		config.SessionTicketsDisabled = true
		ended := make(chan struct{}, 1)
		origin := serveRaw(t, ln, func(oc *originConn) {
			held := &heldConn{Conn: oc.Conn}
			server := tls.Server(held, config)
			if oc.number == 1 {
				held.holdAfter = 2 // ServerHello to ServerHelloDone; then ChangeCipherSpec and Finished
				if server.Handshake() == nil {
					_, _ = server.Write([]byte(poison))
					held.release()
				}
				_ = oc.awaitEnd()
				ended <- struct{}{}
				return
			}
			b := make([]byte, 1<<10)
			for {
				if _, err := server.Read(b); err != nil {
					return
				}
				_, _ = server.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean"))
			}
		})
		raw := p.dialPlain(t)
		resp := raw.roundTrip("POST", "POST https://"+origin.addr+"/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		expectError(t, resp.Response, 502, "http_protocol_error")
		await(t, ended, "the end of the poisoned connection")
		next := p.dialPlain(t).roundTrip("GET", "GET https://"+origin.addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if next.StatusCode != 200 || next.body != "clean" {
			t.Errorf("the next request got %d %q", next.StatusCode, next.body)
		}
	})
}

// heldConn holds back what is written from a certain write on.
type heldConn struct {
	net.Conn
	mu        sync.Mutex
	holdAfter int // writes that are let through, 0 for all
	writes    int
	held      []byte
}

func (c *heldConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes++; c.holdAfter == 0 || c.writes < c.holdAfter {
		return c.Conn.Write(b)
	}
	c.held = append(c.held, b...)
	return len(b), nil
}

func (c *heldConn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Conn.Write(c.held)
}
