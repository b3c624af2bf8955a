package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// snapshot is what a process holds.
type snapshot struct {
	rss, heap              int64 // bytes
	goroutines, open       int   // open: descriptors
	inFlight               int   // requests that Caddy serves
	exchanges, tunnels     int64 // through all upstream proxies
	pickable, memberStates int   // upstream proxies in rotation, of how many
}

func (s snapshot) String() string {
	return fmt.Sprintf("RSS %.1f MiB, heap %.1f MiB, %d goroutines, %d descriptors, %d in flight, %d exchanges and %d tunnels upstream, %d of %d upstreams in rotation",
		mib(s.rss), mib(s.heap), s.goroutines, s.open, s.inFlight, s.exchanges, s.tunnels, s.pickable, s.memberStates)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// snapshot asks a Caddy with upstream proxies, after a garbage collection where
// that is wanted.
func (c *caddy) snapshot(collect bool) (s snapshot, err error) {
	if collect {
		if _, err := c.ask(http.MethodGet, "/debug/pprof/heap?gc=1", "", ""); err != nil {
			return s, err
		}
	}
	m, err := c.metrics()
	if err != nil {
		return s, err
	}
	s.rss = int64(m["process_resident_memory_bytes"])
	s.heap = int64(m["go_memstats_heap_alloc_bytes"])
	s.goroutines = int(m["go_goroutines"])
	s.open = int(m["process_open_fds"])
	s.inFlight = int(m["caddy_http_requests_in_flight"])
	if s.rss <= 0 || s.heap <= 0 || s.goroutines <= 0 || s.open <= 0 {
		return s, fmt.Errorf("the metrics of %s do not tell what it holds: %v", c.name, s) // and 0 would never be too much
	}
	return s, c.explainGroup(&s)
}

// explainGroup adds the state of the upstream proxies, which both handlers share.
func (c *caddy) explainGroup(s *snapshot) error {
	text, err := c.ask(http.MethodPost, "/egress/explain?handler="+c.plain, "", `{"url":"http://`+parentsHost+`/"}`)
	if err != nil {
		return err
	}
	var e struct {
		Paths []struct {
			Group struct {
				Upstreams []struct {
					Details struct {
						Pickable           bool
						Exchanges, Tunnels int64
					}
				}
			}
		}
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	for _, p := range e.Paths {
		for _, u := range p.Group.Upstreams {
			s.memberStates++
			s.exchanges += u.Details.Exchanges
			s.tunnels += u.Details.Tunnels
			if u.Details.Pickable {
				s.pickable++
			}
		}
	}
	return nil
}

// idle reports whether nothing is under way and all upstream proxies are in
// rotation.
func (s snapshot) idle() bool {
	return s.inFlight == 0 && s.exchanges == 0 && s.tunnels == 0 && s.memberStates > 0 && s.pickable == s.memberStates
}

// settleTimeout is how long a proxy may take until it holds nothing any more. Its
// own timeouts are shorter.
const settleTimeout = 75 * time.Second

// settle waits until good says so of a snapshot, and returns the last one.
func (c *caddy) settle(good func(snapshot) bool) (s snapshot, ok bool, err error) {
	for deadline := time.Now().Add(settleTimeout); ; time.Sleep(500 * time.Millisecond) {
		if s, err = c.snapshot(true); err != nil {
			return s, false, err
		}
		if good(s) {
			return s, true, nil
		}
		if time.Now().After(deadline) {
			return s, false, nil
		}
	}
}

// lowest is for settle: what was held at the quietest look, since health checks come
// and go. It is good when no look was quieter for some time.
type lowest struct {
	snapshot
	since int // looks
}

func (l *lowest) look(s snapshot) bool {
	if !s.idle() {
		*l = lowest{}
		return false
	}
	l.since++
	if l.goroutines == 0 || s.goroutines+s.open < l.goroutines+l.open {
		*l = lowest{snapshot: s}
	}
	return l.since >= 8
}
