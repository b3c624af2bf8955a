package integration

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// behaviour is how a scripted upstream meets a request. It reports whether it has
// dealt with it; if not, the upstream does its job.
type behaviour func(w http.ResponseWriter, r *http.Request) bool

// scriptedUpstream is an HTTP upstream proxy that behaves as a test wants, and can
// go away and come back. Responses of exchanges carry its name in Served-By.
type scriptedUpstream struct {
	t    *testing.T
	name string
	addr string
	tls  *tls.Config // nil for an upstream in clear

	behaves atomic.Pointer[behaviour]
	seen    chan *http.Request // everything asked of it, checks included
	conns   atomic.Int64       // accepted
	origins http.Transport

	mu  sync.Mutex
	srv *http.Server
	all map[net.Conn]bool // open, those of tunnels included
	wg  sync.WaitGroup
}

// newScriptedUpstream starts an upstream.
func newScriptedUpstream(t *testing.T, name string) *scriptedUpstream {
	return startScripted(t, &scriptedUpstream{name: name})
}

// newScriptedTLSUpstream starts an upstream that is spoken to over TLS.
func newScriptedTLSUpstream(t *testing.T, name string) *scriptedUpstream {
	return startScripted(t, &scriptedUpstream{name: name, tls: testCA().serverTLS("127.0.0.1")})
}

func startScripted(t *testing.T, u *scriptedUpstream) *scriptedUpstream {
	t.Helper()
	u.t, u.addr = t, freeAddr(t)
	u.seen = make(chan *http.Request, 1<<16)
	u.up()
	t.Cleanup(func() {
		u.down()
		u.origins.CloseIdleConnections()
		u.wg.Wait()
	})
	return u
}

// url is how the configuration names it, and what the log calls it.
func (u *scriptedUpstream) url() string {
	if u.tls != nil {
		return "https://" + u.addr
	}
	return "http://" + u.addr
}

// up listens.
func (u *scriptedUpstream) up() {
	u.t.Helper()
	ln, err := net.Listen("tcp", u.addr)
	if err != nil {
		u.t.Fatal(err)
	}
	if u.tls != nil {
		ln = tls.NewListener(ln, u.tls)
	}
	srv := &http.Server{Handler: u, ErrorLog: quietLog, ConnState: u.track}
	u.mu.Lock()
	u.srv, u.all = srv, make(map[net.Conn]bool)
	u.mu.Unlock()
	u.wg.Go(func() { _ = srv.Serve(ln) })
}

// down closes the listener and all connections.
func (u *scriptedUpstream) down() {
	u.mu.Lock()
	srv, all := u.srv, u.all
	u.srv, u.all = nil, nil
	u.mu.Unlock()
	if srv == nil {
		return
	}
	_ = srv.Close()
	for c := range all {
		c.Close()
	}
}

func (u *scriptedUpstream) track(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case state == http.StateNew:
		u.conns.Add(1)
		if u.all != nil {
			u.all[c] = true
		}
	case state == http.StateClosed:
		delete(u.all, c)
	}
}

// behave changes how it meets requests; nil is normal.
func (u *scriptedUpstream) behave(b behaviour) {
	if b == nil {
		u.behaves.Store(nil)
		return
	}
	u.behaves.Store(&b)
}

// ServeHTTP implements http.Handler.
func (u *scriptedUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.seen <- r
	switch b := u.behaves.Load(); {
	case b != nil && (*b)(w, r):
	case r.Method == http.MethodConnect:
		u.tunnel(w, r)
	default:
		u.forward(w, r)
	}
}

func (u *scriptedUpstream) forward(w http.ResponseWriter, r *http.Request) {
	r = r.Clone(r.Context())
	r.RequestURI = ""
	for _, name := range []string{"Proxy-Authorization", "Connection"} {
		r.Header.Del(name)
	}
	resp, err := u.origins.RoundTrip(r)
	if err != nil {
		w.Header().Set("Proxy-Status", u.name+"; error=connection_refused")
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Served-By", u.name)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (u *scriptedUpstream) tunnel(w http.ResponseWriter, r *http.Request) {
	origin, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.Header().Set("Proxy-Status", u.name+"; error=connection_refused")
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer origin.Close()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	u.wg.Go(func() {
		_, _ = io.Copy(origin, rw)
		_ = origin.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(conn, origin)
}

// asked takes what was asked of it so far.
func (u *scriptedUpstream) asked() (requests []*http.Request) {
	for {
		select {
		case r := <-u.seen:
			requests = append(requests, r)
		default:
			return requests
		}
	}
}

// askedFor is how many of the requests so far were for a host, and forgets them all.
func (u *scriptedUpstream) askedFor(host string) (n int) {
	for _, r := range u.asked() {
		if r.Host == host {
			n++
		}
	}
	return n
}

// answering answers every request with a status and fields.
func answering(status int, fields ...string) behaviour {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		return true
	}
}

// only applies a behaviour to requests for one host, and notFor to all others.
func only(host string, b behaviour) behaviour {
	return func(w http.ResponseWriter, r *http.Request) bool { return r.Host == host && b(w, r) }
}

// silent never answers.
func silent(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// closing closes the connection without an answer.
func closing(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// group is a group of upstreams in the Caddyfile, with further words.
func groupOf(words string, upstreams ...*scriptedUpstream) string {
	var s strings.Builder
	s.WriteString("upstreams default {\n")
	for _, u := range upstreams {
		s.WriteString("upstream " + u.url() + "\n")
	}
	s.WriteString(words + "\n}\n")
	return s.String()
}

// servedBy sends n requests, one after the other, and counts who served them.
func servedBy(t *testing.T, c *client, url string, n int) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for range n {
		resp := c.get(t, url)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status %d %v", resp.StatusCode, resp.Header)
		}
		counts[resp.Header.Get("Served-By")]++
	}
	return counts
}
