package integration

import (
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// measureFresh lets clients send so many requests, each over a connection of its own,
// while one reload follows the other, and returns how they ended.
func (s *loadSite) measureFresh(control bool, most int64) (done int64, lost map[string]int) {
	lost = make(map[string]int)
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(most)
	to := new(tally)
	stop := make(chan struct{})
	for range 4 {
		c := s.client("h1", control, true)
		wg.Go(func() {
			defer c.close()
			for left.Add(-1) >= 0 {
				if control {
					s.controlled(c, "h1", 0, to)
				} else {
					s.exchange(c, "h1", 4, to) // a GET, directly
				}
			}
		})
	}
	reloader := make(chan struct{})
	go func() {
		defer close(reloader)
		for {
			select {
			case <-stop:
				return
			default:
				s.reload()
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-reloader
	for id, l := range to.lost {
		var sys *os.SyscallError
		what := l.err.Error()
		if errors.As(l.err, &sys) {
			what = sys.Err.Error()
		}
		lost[what]++
		if _, seen := seenIDs.Load(id); seen {
			s.Errorf("request %s reached a handler, and was not answered: %v", id, l.err)
		}
	}
	return to.done.Load(), lost
}

// With EGRESS_MEASURE=1: how many of fresh connections are lost to reloads, by a site
// that only says `respond` and by egress. (docs/reliability.md has the table.)
func TestReload_FreshConnections(t *testing.T) {
	if os.Getenv("EGRESS_MEASURE") == "" {
		t.Skip("measures only with EGRESS_MEASURE=1")
	}
	s := newLoadSite(t)
	s.inProcess = true
	load(t, s.caddyfile())
	migrate, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req")
	for range 3 {
		for _, control := range []bool{true, false} {
			before := s.generation
			done, lost := s.measureFresh(control, 4000)
			t.Logf("tcp_migrate_req %s control %t: %d reloads, %d answered, lost %v", strings.TrimSpace(string(migrate)), control, s.generation-before, done, lost)
		}
	}
}
