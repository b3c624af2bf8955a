package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
)

// origin is the far end of everything: an HTTP server, one that echoes, in clear and
// within TLS, and one that knows no manners (rude.go).
//
//   - METHOD /x/id?size=n answers with a body of that size that begins with the
//     id, in chunks with &chunked=true, and with a pause in it with &pause=true.
//     The body of the request must begin with the id too, and be as long as
//     X-Upload says: one that is not, but ends as if it were whole, is a fault
//     that nobody has noticed.
//   - GET /gather/run/n is answered when n requests of the run are there.
type origin struct {
	httpAddr, echoAddr, tlsAddr, rudeAddr string

	server    *http.Server
	listeners []net.Listener
	wg        sync.WaitGroup
	broken    *violations

	mu    sync.Mutex
	posts map[string]int // by id: how often it was seen
	waits map[string]*gate
	raw   map[net.Conn]struct{} // connections of no HTTP server
}

type gate struct {
	waiting int
	open    chan struct{}
}

func startOrigin(cert tls.Certificate, broken *violations) (*origin, error) {
	o := &origin{
		broken: broken,
		posts:  make(map[string]int),
		waits:  make(map[string]*gate),
		raw:    make(map[net.Conn]struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/x/{id}", o.exchange)
	mux.HandleFunc("GET /gather/{run}/{n}", o.gather)
	o.server = &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0), IdleTimeout: 30 * time.Second}
	for _, addr := range []*string{&o.httpAddr, &o.echoAddr, &o.tlsAddr, &o.rudeAddr} {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			o.stop()
			return nil, err
		}
		*addr = ln.Addr().String()
		o.listeners = append(o.listeners, ln)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	o.wg.Go(func() { _ = o.server.Serve(o.listeners[0]) })
	o.wg.Go(func() { o.accept(o.listeners[1], echo) })
	o.wg.Go(func() { o.accept(o.listeners[2], func(c net.Conn) { echo(tls.Server(c, config)) }) })
	o.wg.Go(func() { o.accept(o.listeners[3], o.serveRudely) })
	return o, nil
}

func (o *origin) stop() {
	_ = o.server.Close()
	for _, ln := range o.listeners {
		_ = ln.Close()
	}
	o.mu.Lock()
	for c := range o.raw {
		_ = c.Close()
	}
	o.mu.Unlock()
	o.wg.Wait()
}

func (o *origin) exchange(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	o.countPost(r.Method, id)
	size, err := strconv.ParseInt(r.FormValue("size"), 10, 64)
	if err != nil || size < 0 {
		http.Error(w, "bad size", http.StatusBadRequest)
		return
	}
	received, err := readBody(r.Body, id)
	if errors.Is(err, errWrongBytes) {
		o.broken.add("upload %s: %v", id, err)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if want := r.Header.Get("X-Upload"); want != strconv.FormatInt(received, 10) {
		o.broken.add("upload %s looks whole after %d bytes of %s", id, received, want)
	}
	header := w.Header()
	header.Set("Content-Type", "text/plain")
	header.Set("X-Id", id)
	header.Set("X-Received", strconv.FormatInt(received, 10))
	if r.FormValue("chunked") == "" {
		header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	b := &pattern.Body{ID: []byte(id)}
	if r.FormValue("pause") != "" {
		_ = b.Send(w, size/2)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond)
	}
	_ = b.Send(w, size-b.Offset) // who does not read it is the client's business
}

// gather holds a request back until as many are there as were announced.
func (o *origin) gather(w http.ResponseWriter, r *http.Request) {
	run := r.PathValue("run")
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		http.Error(w, "bad number", http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	g := o.waits[run]
	if g == nil {
		g = &gate{open: make(chan struct{})}
		o.waits[run] = g
	}
	if g.waiting++; g.waiting == n {
		close(g.open)
	}
	o.mu.Unlock()
	select {
	case <-g.open:
	case <-r.Context().Done():
	}
}

// countPost notes that a request has reached an origin.
func (o *origin) countPost(method, id string) {
	if method != http.MethodPost {
		return
	}
	o.mu.Lock()
	o.posts[id]++
	n := o.posts[id]
	o.mu.Unlock()
	if n > 1 {
		o.broken.add("POST %s was seen %d times by the origin", id, n)
	}
}

// accept serves connections until the listener is closed. stop ends those that are left.
func (o *origin) accept(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.raw[c] = struct{}{}
		o.mu.Unlock()
		o.wg.Go(func() {
			serve(c)
			_ = c.Close()
			o.mu.Lock()
			delete(o.raw, c)
			o.mu.Unlock()
		})
	}
}

// echo sends back what comes, and ends when that ends.
func echo(c net.Conn) {
	_, _ = io.Copy(c, struct{ io.Reader }{c})
	_ = c.Close()
}

// errWrongBytes are bytes that belong to another body, or to none.
var errWrongBytes = errors.New("wrong bytes")

// readBody reads to the end and compares all that comes.
func readBody(r io.Reader, id string) (int64, error) {
	want := &pattern.Body{ID: []byte(id)}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if wrong := want.Check(buf[:n]); wrong != nil {
			return want.Offset, fmt.Errorf("%w: %w", errWrongBytes, wrong)
		}
		switch {
		case err == io.EOF:
			return want.Offset, nil
		case err != nil:
			return want.Offset, err
		}
	}
}
