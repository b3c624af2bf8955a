package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
)

// fateful is an upstream proxy that meets each request in another way.
type fateful struct {
	net.Listener
	rng func(n int) int
	wg  sync.WaitGroup
}

func newFateful(t *testing.T, rng func(int) int) *fateful {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fateful{Listener: ln, rng: rng}
	f.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.wg.Wait()
	})
	return f
}

// fates are the answers of upstreams. After "" they close, after "…" they say nothing
// until the other side closes.
var fates = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok…",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
	"HTTP/1.1 103 Early\r\n\r\n",
	"HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 502 x\r\nProxy-Status: x; error=connection_refused\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 502 x\r\nProxy-Status: x; error=proxy_internal_error\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 503 x\r\nRetry-After: 1\r\nX-Squid-Error: ERR_X\r\nContent-Length: 0\r\n\r\n",
	"SSH-2.0-x\r\n\r\n",
	"HTTP/1.1 2",
	"",
	"…",
}

func (f *fateful) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		fate := fates[f.rng(len(fates))]
		if f.rng(4) == 0 { // an answer before the body is there
			_, _ = io.Copy(io.Discard, r.Body)
		}
		answer, silent := strings.CutSuffix(fate, "…")
		if r.Method == http.MethodConnect {
			answer = strings.Replace(answer, "Content-Length: 2\r\n\r\nok", "\r\n", 1)
		}
		_, _ = io.WriteString(c, answer)
		switch {
		case silent || r.Method == http.MethodConnect && strings.Contains(answer, " 200 "):
			_, _ = io.Copy(io.Discard, br)
			return
		case !strings.HasSuffix(answer, "ok") && !strings.HasSuffix(answer, "Content-Length: 0\r\n\r\n"):
			return
		}
	}
}

// panicsIn is a writer whose method of that name panics.
type panicsIn struct {
	http.ResponseWriter
	method string
}

func (w panicsIn) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w panicsIn) WriteHeader(status int) {
	if w.method == "WriteHeader" {
		panic(http.ErrAbortHandler)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w panicsIn) Write(b []byte) (int, error) {
	if w.method == "Write" {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}

const fatefulGroup = `{
	"groups": {"default": {
		"upstreams": [
			{"url": "http://%s", "max_conns": 2, "max_pending": 2, "max_tunnels": 3},
			{"url": "http://%s", "max_tunnels": 2},
			{"url": "http://%s"},
			{"url": "http://%s", "priority": 1}
		],
		"circuit": {"consecutive_failures": 1, "open_for": "3ms", "max_open_for": "9ms"},
		"slow_start": -1,
		"load_balancing": {"selection_policy": {"policy": "round_robin"}, "retries": 2, "attempt_timeout": "30ms", "hedge": 0.6}
	}},
	"destination_circuit": {"failures": 2, "open_for": "3ms", "max_open_for": "9ms"},
	"transport": {"response_header_timeout": "40ms", "pending_timeout": "10ms"}
}`

// Whatever becomes of requests, the turns of probes come back and so do the places of
// retries, and nothing is counted that is over.
func TestEverythingIsSettled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	rng := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	var at []any
	for range 3 {
		at = append(at, newFateful(t, rng).Addr())
	}
	h, end := mustLoadWithApps(t, fmt.Sprintf(fatefulGroup, append(at, "127.0.0.1:1")...))
	defer end()
	core, logs := observer.New(zap.DebugLevel)
	g := regroup(t, h, zap.New(core))
	var handlers sync.WaitGroup
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				t.Errorf("panic: %v\n%s", p, debug.Stack())
			} else if p != nil {
				panic(p)
			}
		}()
		w = panicsIn{w, r.Header.Get("Panic")}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		_ = h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
	}))
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 150 {
				askFateful(srv.Listener.Addr().String(), rng)
			}
		})
	}
	clients.Wait()
	srv.Close()
	handlers.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for {
		left := unsettled(h, g)
		if left == "" {
			break
		}
		if time.Now().After(deadline) { // a hedge that was overtaken ends a little later
			t.Fatal(left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, message := range []string{"upstream works again: circuit closed", "destination is reachable again: circuit closed"} {
		if logs.FilterMessage(message).Len() == 0 {
			t.Errorf("no probe has passed: never %q", message)
		}
	}
}

// askFateful sends one request, and leaves when it likes.
func askFateful(proxy string, rng func(int) int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rng(60))*time.Millisecond)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", proxy)
	if err != nil {
		return
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	host := fmt.Sprintf("destination%d.test", rng(3))
	target := "http://" + host + []string{"/", "/", "/", "/#x"}[rng(4)]
	panics := []string{"", "", "", "Panic: WriteHeader\r\n", "Panic: Write\r\n"}[rng(5)]
	head := "Host: " + host + "\r\nConnection: close\r\n" + panics
	switch rng(6) {
	case 0:
		fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\n%s\r\n", host, head)
	case 1:
		fmt.Fprintf(c, "PUT %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", target, head)
		if rng(2) == 0 {
			fmt.Fprint(c, "0\r\n\r\n")
		}
	case 2:
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\n%sContent-Length: 5\r\n\r\n%s", target, head, "hello"[:rng(6)])
	default:
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\n%s\r\n", target, head)
	}
	_, _ = io.Copy(io.Discard, c)
}

// regroup makes the group of a handler anew, with another logger.
func regroup(t *testing.T, h *Handler, logger *zap.Logger) *upstream.Group {
	t.Helper()
	base, err := caddyContext()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(base)
	t.Cleanup(cancel)
	cfg := h.Groups["default"]
	config, err := h.groupConfig(ctx, "default", cfg)
	if err != nil {
		t.Fatal(err)
	}
	config.Logger, config.Destinations = logger, h.groupExits["default"].Value.circuits.Path("default", logger)
	g, err := upstream.New(*config)
	if err != nil {
		t.Fatal(err)
	}
	h.groups["default"].Close()
	h.groups["default"], h.unrouted.way.To.Group = g, g
	return g
}

// unsettled names what is held though nothing is under way.
func unsettled(h *Handler, g *upstream.Group) string {
	var all []error
	count := func(what string, n int64) {
		if n != 0 {
			all = append(all, fmt.Errorf("%d %s", n, what))
		}
	}
	requests, retries := g.Budget.InFlight()
	count("requests in the budget of the group", requests)
	count("retries in the budget of the group", retries)
	requests, retries = h.proxy.Budget.InFlight()
	count("requests in the budget of the handler", requests)
	count("retries in the budget of the handler", retries)
	for i, m := range g.Members() {
		count("exchanges", m.Health.Exchanges())
		count("tunnels", m.Health.Tunnels())
		if m.Health.Status().Circuit == health.HalfOpen {
			all = append(all, fmt.Errorf("upstream %d is half-open", i))
		}
	}
	for _, d := range g.Destinations().Report() {
		if d.Circuit == health.HalfOpen {
			all = append(all, fmt.Errorf("%s is half-open", d.Name))
		}
	}
	if err := errors.Join(all...); err != nil {
		return err.Error()
	}
	return ""
}
