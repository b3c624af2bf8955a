package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// stalePorts: what the destinations behind a tlsParent are.
const (
	staleOrigin = "127.0.0.1:7"
	staleEcho   = "127.0.0.1:9"
)

// pieces is a connection that is read and written elsewhere than at its socket.
type pieces struct {
	net.Conn
	r     io.Reader
	w     io.Writer
	close func() error
}

func (p *pieces) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pieces) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *pieces) Close() error                { return p.close() }

// tlsParent is an upstream and the origin behind it in one, so that what the origin
// does has reached the proxy when it is done. The first tunnel to the origin is
// spoilt between two requests.
type tlsParent struct {
	t       *testing.T
	tunnels atomic.Int32
	spoil   chan struct{}
	spoilt  chan struct{}
	how     func(below net.Conn, conn *tls.Conn)
}

// serve is a tunnel from its beginning.
func (p *tlsParent) serve(target string, below net.Conn) {
	if target == staleEcho {
		_, _ = io.Copy(below, below)
		return
	}
	n := p.tunnels.Add(1)
	conn := tls.Server(below, testCA().serverTLS("127.0.0.1"))
	defer conn.Close()
	br := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		body := fmt.Sprintf("%d %s", n, r.URL.Path)
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			return
		}
		if n == 1 && r.URL.Path == "/first" {
			<-p.spoil
			p.how(below, conn)
			close(p.spoilt)
		}
	}
}

// serveH1 takes CONNECTs as an HTTP/1.1 proxy.
func (p *tlsParent) serveH1(ln net.Listener) string {
	return serveRaw(p.t, ln, func(oc *originConn) {
		r := oc.request()
		if r == nil {
			return
		}
		oc.send("HTTP/1.1 200 OK\r\n\r\n")
		p.serve(r.target, &pieces{Conn: oc.Conn, r: oc.br, w: oc.Conn, close: oc.Close})
	}).addr
}

// serveH2 takes CONNECTs as an HTTP/2 proxy.
func (p *tlsParent) serveH2(config *tls.Config) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush()
		near, far := net.Pipe() // for its addresses and deadlines only
		defer near.Close()
		defer far.Close()
		p.serve(r.Host, &pieces{Conn: near, r: r.Body, w: eager{w, rc}, close: r.Body.Close})
	}))
	s.TLS, s.EnableHTTP2 = config, true
	s.StartTLS()
	p.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

type eager struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f eager) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, f.rc.Flush()
}

// tlsParents begin the parents whose connections to the origin are made of several
// layers, and return the upstream for each.
func tlsParents(t *testing.T) map[string]func(p *tlsParent) string {
	listen := func(network, addr string) net.Listener {
		ln, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	block := " {\n tls_server_name 127.0.0.1\n tls_trust_pool file " + caFile(t) + "\n}\n"
	config := func() *tls.Config { return testCA().serverTLS("127.0.0.1") }
	return map[string]func(p *tlsParent) string{
		"http": func(p *tlsParent) string {
			return "upstream http://" + p.serveH1(listen("tcp", "127.0.0.1:0")) + "\n"
		},
		"https, HTTP/1.1": func(p *tlsParent) string {
			return "upstream https://" + p.serveH1(tls.NewListener(listen("tcp", "127.0.0.1:0"), config())) + block
		},
		"https, HTTP/2": func(p *tlsParent) string {
			return "upstream https://" + p.serveH2(config()) + block
		},
		"https over a unix socket": func(p *tlsParent) string {
			path := filepath.Join(t.TempDir(), "s")
			p.serveH1(tls.NewListener(listen("unix", path), config()))
			return "upstream https+unix://" + path + block
		},
	}
}

// upstream.md §1, "a non-blocking look at the socket tells whether the peer closed it
// or sent something unasked for": whatever the connection is made of. A quiet one is
// used again.
func TestUpstream_StaleThroughLayers(t *testing.T) {
	for how, spoil := range map[string]func(below net.Conn, conn *tls.Conn){
		"quiet":    func(net.Conn, *tls.Conn) {},
		"closed":   func(_ net.Conn, conn *tls.Conn) { _ = conn.Close() },
		"alert":    func(_ net.Conn, conn *tls.Conn) { _ = conn.CloseWrite() },
		"poisoned": func(_ net.Conn, conn *tls.Conn) { _, _ = io.WriteString(conn, poison) },
		"one byte": func(_ net.Conn, conn *tls.Conn) { _, _ = io.WriteString(conn, "H") },
		"garbage":  func(below net.Conn, _ *tls.Conn) { _, _ = io.WriteString(below, poison) },
	} {
		t.Run(how, func(t *testing.T) {
			for name, begin := range tlsParents(t) {
				t.Run(name, func(t *testing.T) {
					checkLeaks(t)
					parent := &tlsParent{t: t, spoil: make(chan struct{}), spoilt: make(chan struct{}), how: spoil}
					upstream := begin(parent)
					p := start(t, mode{access: true}, setup{egress: usual + "transport {\n tls_trust_pool file " + caFile(t) + "\n}\n" + upstream})
					ask := func(method, path, want string) {
						t.Helper()
						got := p.dialPlain(t).roundTrip(method, method+" https://"+staleOrigin+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
						if got.StatusCode != 200 || got.body != want {
							t.Errorf("%s %s: %d %q, want %q", method, path, got.StatusCode, got.body, want)
						}
					}
					ask("GET", "/first", "1 /first")
					close(parent.spoil)
					await(t, parent.spoilt, "the origin to spoil its connection")
					// Over HTTP/2, what has come back over another stream comes
					// behind what the first has got.
					echo := p.client(t, "h1").open(t, staleEcho)
					alive(t, echo, "a tunnel")
					echo.Close()
					tunnel := 2
					if how == "quiet" {
						tunnel = 1
					}
					ask("POST", "/second", fmt.Sprintf("%d /second", tunnel))
					ask("GET", "/third", fmt.Sprintf("%d /third", tunnel))
				})
			}
		})
	}
}
