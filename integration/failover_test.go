package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// This file contains the demonstration of failover: real upstreams that die, hang
// and come back under load, and clients that notice nothing.

// failoverGroup has the settings of the demonstration: everything is as usual, but
// quicker.
const failoverGroup = `
	lb_policy weighted_round_robin
	attempt_timeout 4s
	slow_start 2s
	health_interval 200ms
	health_timeout 2s
	circuit {
		open_for 1s
	}
`

// Three real upstreams under load: one is killed, and comes back; another one
// hangs, and goes on. No client gets an error that another upstream could have
// spared it.
func TestFailover(t *testing.T) {
	checkLeaks(t)
	f := newFailover(t)
	f.p = start(t, mode{access: true}, setup{egress: usual + "transport {\n response_header_timeout 4s\n}\n" + f.group()})
	stop := f.load(24, 12)
	first, second := f.upstreams[0], f.upstreams[1]

	f.awaitTraffic("all serve", first, second, f.upstreams[2])

	f.enter("killed")
	killed := time.Now()
	first.peer.Kill()
	out := f.p.logs.waitTransition(t, first.url(), 0, "unhealthy", "circuit_open")
	t.Logf("killed: out of rotation after %v (%s)", time.Since(killed).Round(time.Millisecond), out.event())
	f.enter("without the killed one")
	f.awaitTraffic("the others serve", second, f.upstreams[2])

	f.enter("started again")
	first.peer = peertest.Again(t, first.peer)
	back := f.awaitBack(first)
	f.enter("slow start")
	f.awaitTraffic("it serves again", first)
	time.Sleep(time.Until(back.Add(2500 * time.Millisecond))) // the slow start is a matter of time
	f.enter("full weight")
	f.awaitTraffic("all serve", first, second, f.upstreams[2])
	f.awaitServed(150)
	late := f.enter("hung")

	known := len(f.p.logs.transitionsOf(second.url()))
	hung := time.Now()
	if err := second.peer.Pause(); err != nil {
		t.Fatal(err)
	}
	out = f.p.logs.waitTransition(t, second.url(), known, "unhealthy", "circuit_open")
	t.Logf("hung: out of rotation after %v (%s)", time.Since(hung).Round(time.Millisecond), out.event())
	f.enter("without the one that hangs")
	f.awaitTraffic("the others serve", first, f.upstreams[2])
	if err := second.peer.Resume(); err != nil {
		t.Fatal(err)
	}
	f.enter("resumed")
	f.awaitBack(second)
	f.enter("back")
	f.awaitTraffic("all serve", first, second, f.upstreams[2])

	stop()
	f.report()
	// So soon a few requests say nothing, on a machine that is slow.
	if early := f.between(back, back.Add(500*time.Millisecond)); early.requests() >= 20 && early.share(first) > 0.25 {
		t.Errorf("in the first part of its slow start %s had %.0f%% of the requests: %v", first.name, early.share(first)*100, early)
	}
	if share := late.share(first); share < 0.25 {
		t.Errorf("after its slow start %s had %.0f%% of the requests: %v", first.name, share*100, late)
	}
}

// failoverUpstream is a squid that connects from an address of its own, by which
// origins know it.
type failoverUpstream struct {
	name  string
	local string
	peer  *peers.Peer
}

func (u *failoverUpstream) url() string { return "http://" + u.peer.Addr }

// failover is the demonstration under way.
type failover struct {
	t         *testing.T
	p         *proxy
	upstreams []*failoverUpstream
	exchanges *httptest.Server
	echo      *rawOrigin

	mu      sync.Mutex
	phases  []*phase
	all     []arrival
	changed chan struct{}

	failed     []string
	incomplete atomic.Int64 // responses cut off after their head
	lost       atomic.Int64 // tunnels cut off after they stood
	requests   atomic.Int64
	tunnels    atomic.Int64
}

// arrival is a request at an origin.
type arrival struct {
	at   time.Time
	name string
}

// between counts what arrived in a time.
func (f *failover) between(from, to time.Time) *phase {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &phase{name: "in that time", counts: map[string]int{}}
	for _, a := range f.all {
		if a.at.After(from) && a.at.Before(to) {
			p.counts[a.name]++
		}
	}
	return p
}

// phase counts what arrived at the origins, by the address it came from.
type phase struct {
	name   string
	counts map[string]int
}

func (p *phase) String() string { return fmt.Sprintf("%s: %v", p.name, p.counts) }

func (p *phase) requests() (all int) {
	for n := range maps.Values(p.counts) {
		all += n
	}
	return all
}

func (p *phase) share(u *failoverUpstream) float64 {
	return float64(p.counts[u.name]) / float64(max(p.requests(), 1))
}

func newFailover(t *testing.T) *failover {
	f := &failover{t: t, changed: make(chan struct{}), phases: []*phase{{name: "at first", counts: map[string]int{}}}}
	for i, name := range []string{"a", "b", "c"} {
		u := &failoverUpstream{name: name, local: fmt.Sprintf("127.0.0.%d", 11+i)}
		u.peer = peertest.Squid(t, peers.SquidOptions{Config: []string{"tcp_outgoing_address " + u.local}})
		f.upstreams = append(f.upstreams, u)
	}
	f.exchanges = newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		f.arrived(r.RemoteAddr)
		select { // as an origin that has to think: something is in flight at any time
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 2000))
	})
	f.echo = newRawOrigin(t, func(c *originConn) {
		f.arrived(c.RemoteAddr().String())
		if _, err := io.Copy(c.Conn, c.br); err == nil {
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		}
	})
	return f
}

func (f *failover) group() string {
	var s strings.Builder
	s.WriteString("upstreams default {\n")
	for _, u := range f.upstreams {
		s.WriteString("upstream " + u.url() + "\n")
	}
	// The target of the checks is told apart by its address.
	target := newRawOrigin(f.t, func(c *originConn) { _ = c.awaitEnd() })
	s.WriteString(failoverGroup + "health_check connect " + target.addr + "\n}\n")
	return s.String()
}

// arrived counts a request at an origin.
func (f *failover) arrived(from string) {
	host, _, _ := net.SplitHostPort(from)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.upstreams {
		if u.local == host {
			host = u.name
		}
	}
	f.all = append(f.all, arrival{time.Now(), host})
	f.phases[len(f.phases)-1].counts[host]++
	close(f.changed)
	f.changed = make(chan struct{})
}

// enter begins a phase and returns the one that it ends.
func (f *failover) enter(name string) *phase {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.phases[len(f.phases)-1]
	f.phases = append(f.phases, &phase{name: name, counts: map[string]int{}})
	return last
}

// awaitCounts waits for counts of the current phase.
func (f *failover) awaitCounts(what string, enough func(map[string]int) bool) {
	f.t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		ok, changed := enough(f.phases[len(f.phases)-1].counts), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			f.report()
			f.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// awaitTraffic waits until upstreams have served some requests in this phase.
func (f *failover) awaitTraffic(what string, upstreams ...*failoverUpstream) {
	f.t.Helper()
	f.awaitCounts(what, func(counts map[string]int) bool {
		return !slices.ContainsFunc(upstreams, func(u *failoverUpstream) bool { return counts[u.name] < 10 })
	})
}

// awaitServed waits for n requests in this phase.
func (f *failover) awaitServed(n int) {
	f.t.Helper()
	f.awaitCounts("requests", func(counts map[string]int) bool {
		all := 0
		for c := range maps.Values(counts) {
			all += c
		}
		return all >= n
	})
}

// awaitBack waits until everything that took an upstream out has been taken back, and
// returns when it was.
func (f *failover) awaitBack(u *failoverUpstream) time.Time {
	f.t.Helper()
	f.p.logs.wait(f.t, u.name+" back in rotation", func(logLine) bool {
		out := map[string]int{}
		for _, l := range f.p.logs.transitionsOf(u.url()) {
			switch l.event() {
			case "unhealthy":
				out["check"]++
			case "healthy":
				out["check"]--
			case "circuit_open":
				out["circuit"]++
			case "circuit_closed":
				out["circuit"]--
			}
		}
		return out["check"] == 0 && out["circuit"] == 0
	})
	lines := f.p.logs.transitionsOf(u.url())
	return time.UnixMicro(int64(lines[len(lines)-1].num("ts") * 1e6))
}

// load begins with the load and returns what ends it.
func (f *failover) load(exchanges, tunnels int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range exchanges {
		wg.Go(func() { f.exchange(ctx) })
	}
	for range tunnels {
		wg.Go(func() {
			for ctx.Err() == nil {
				f.tunnel(ctx)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	f.t.Cleanup(stop)
	return stop
}

func (f *failover) failure(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = append(f.failed, f.phases[len(f.phases)-1].name+": "+fmt.Sprintf(format, args...))
}

// exchange is a client that asks for one page after the other.
func (f *failover) exchange(ctx context.Context) {
	rt := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: f.p.plain})}
	defer rt.CloseIdleConnections()
	for ctx.Err() == nil {
		r, err := http.NewRequest(http.MethodGet, f.exchanges.URL, nil)
		if err != nil {
			f.failure("%v", err)
			return
		}
		f.requests.Add(1)
		resp, err := rt.RoundTrip(r)
		if err != nil {
			f.failure("GET: %v", err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode != http.StatusOK:
			f.failure("GET: status %d, %s", resp.StatusCode, resp.Header.Get("Proxy-Status"))
		case err != nil || len(body) != 2000:
			f.incomplete.Add(1)
		}
	}
}

// tunnel opens a tunnel, uses it for a while and closes it.
func (f *failover) tunnel(ctx context.Context) {
	f.tunnels.Add(1)
	conn, err := net.Dial("tcp", f.p.plain)
	if err != nil {
		f.failure("CONNECT: %v", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", f.echo.addr, f.echo.addr)
	const ok = "HTTP/1.1 200 "
	head := make([]byte, len(ok))
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != ok {
		rest, _ := io.ReadAll(conn)
		f.failure("CONNECT: %q, %v", string(head)+string(rest), err)
		return
	}
	for {
		b := make([]byte, 1)
		if _, err := io.ReadFull(conn, b); err != nil {
			f.lost.Add(1)
			return
		}
		if head = append(head, b[0]); strings.HasSuffix(string(head), "\r\n\r\n") {
			break
		}
	}
	for range 10 {
		if _, err := io.WriteString(conn, "ping"); err != nil {
			f.lost.Add(1)
			return
		}
		switch _, err := io.ReadFull(conn, make([]byte, 4)); {
		case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			f.failure("a tunnel hangs: %v", err)
			return
		case err != nil:
			f.lost.Add(1)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// report prints the numbers, and fails the test for what clients saw.
func (f *failover) report() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	attempts, repeated := 0, 0
	for _, l := range f.p.logs.accessLines(func(logLine) bool { return true }) {
		n := int(l.num("egress.attempts"))
		attempts += max(n, 0)
		if n > 1 {
			repeated++
		}
	}
	for _, p := range f.phases {
		f.t.Log(p)
	}
	f.t.Logf("%d exchanges, %d tunnels, %d attempts, %d requests tried more than once; cut off: %d responses, %d tunnels; errors: %d",
		f.requests.Load(), f.tunnels.Load(), attempts, repeated, f.incomplete.Load(), f.lost.Load(), len(f.failed))
	for _, text := range f.failed[:min(len(f.failed), 20)] {
		f.t.Error(text)
	}
}
