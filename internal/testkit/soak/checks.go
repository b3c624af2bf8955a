package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// checkTimeout is when a check of a limit gives up.
const checkTimeout = 15 * time.Second

// fill takes every slot that the proxy has. One that was never given back is
// missed: all connections to a host at once, all exchanges and all tunnels through
// all upstream proxies.
func (l *lab) fill(round string) error {
	members := len(l.members()) * maxMember
	return errors.Join(
		l.gather(round+"d", directHost, maxConnsPerHost),
		l.gather(round+"p", parentsHost, members),
		l.openTunnels(members),
	)
}

// gather makes n exchanges of which none is answered before the origin has all.
func (l *lab) gather(run, host string, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	url := fmt.Sprintf("http://%s:%s/gather/%s/%d", host, port(l.origin.httpAddr), run, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				errs[i] = err
				return
			}
			resp, err := l.clients["h1"].rt.RoundTrip(r)
			if err != nil {
				errs[i] = err
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				errs[i] = answeredWith(resp).err
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%d exchanges at once with %s: %w", n, host, firstOf(errs))
	}
	return nil
}

// openTunnels opens n tunnels through the group, which then must be full.
func (l *lab) openTunnels(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	target := net.JoinHostPort(parentsHost, port(l.origin.echoAddr))
	for i := range n {
		conn, err := l.clients["h1"].connect(ctx, target)
		if err != nil {
			return fmt.Errorf("tunnel %d of %d at once: %w", i+1, n, err)
		}
		defer conn.Close()
	}
	conn, err := l.clients["h1"].connect(ctx, target)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%d tunnels at once, but there is one more", n)
	}
	var no *refused
	if !errors.As(err, &no) || no.resp.StatusCode != http.StatusServiceUnavailable {
		return fmt.Errorf("with %d tunnels at once the next one should get 503: %w", n, err)
	}
	return nil
}

func firstOf(errs []error) error {
	n := 0
	var first error
	for _, err := range errs {
		if err != nil {
			if n++; first == nil {
				first = err
			}
		}
	}
	return fmt.Errorf("%d failed, the first with: %w", n, first)
}

// What may be left at the end beyond what there was at the start: goroutines and
// descriptors of the runtime, and of the look at them; caches of the heap.
const (
	spareGoroutines = 4
	spareOpen       = 2
	spareHeap       = 16 << 20
)

// baseline settles the proxy before the load, and says what it holds.
func (l *lab) baseline() (snapshot, error) {
	if _, ok, err := l.egress.settle(snapshot.idle); err != nil || !ok {
		return snapshot{}, errors.Join(err, errors.New("the proxy does not become idle before the load"))
	}
	if err := l.fill("before"); err != nil {
		return snapshot{}, err
	}
	l.closeIdle()
	var quietest lowest
	s, ok, err := l.egress.settle(quietest.look)
	if err == nil && !ok {
		err = fmt.Errorf("the proxy does not settle before the load: %v", s)
	}
	return quietest.snapshot, err
}

// awaitRotation gives the proxy something to do until its upstream proxies are all in
// rotation: without traffic, it looks after them once a minute only.
func (l *lab) awaitRotation() error {
	for deadline := time.Now().Add(settleTimeout); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		s, err := l.egress.snapshot(false)
		if err != nil || s.pickable == s.memberStates {
			return err
		}
		_ = l.do(request{number: firstIgnored, client: "h1", parents: true, method: http.MethodGet})
	}
	return nil // verify finds out
}

// verify holds the proxy to what it promises, after the load: that its counters are
// back at 0 and its slots free, and that it holds no more than before.
func (l *lab) verify(start snapshot) (snapshot, error) {
	if err := l.awaitRotation(); err != nil {
		return snapshot{}, err
	}
	l.closeIdle()
	s, ok, err := l.egress.settle(snapshot.idle)
	if err != nil {
		return s, err
	}
	if !ok {
		l.broken.add("counters do not return to 0, or upstreams into rotation: %v", s)
	}
	l.calmly(context.Background(), firstAfter)
	if err := l.fill("after"); err != nil {
		l.broken.add("a slot was lost: %v", err)
	}
	l.closeIdle()
	s, ok, err = l.egress.settle(func(s snapshot) bool {
		return s.idle() && s.goroutines <= start.goroutines+spareGoroutines && s.open <= start.open+spareOpen &&
			s.heap <= start.heap+spareHeap
	})
	if err != nil {
		return s, err
	}
	if !ok {
		l.broken.add("something is left: %v; before the load: %v; see %s", s, start, l.dumpGoroutines())
	}
	return s, nil
}

// dumpGoroutines writes what the goroutines of the proxy do to a file.
func (l *lab) dumpGoroutines() string {
	text, err := l.egress.ask(http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
	if err != nil {
		return err.Error()
	}
	path := filepath.Join(l.dir, "goroutines")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err.Error()
	}
	return path
}
