package dial

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
)

// recorded is what a Recorder was told.
type recorded struct {
	mu   sync.Mutex
	told []string
}

func (r *recorded) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf(format, args...))
}

func (r *recorded) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told
	r.told = nil
	slices.Sort(told)
	return told
}

func (r *recorded) LookedUp(result Lookup)                  { r.add("%s", result) }
func (r *recorded) Resolved(d time.Duration, result Lookup) { r.add("%s after %s", result, d) }
func (r *recorded) Handshaken(_ time.Duration, err error)   { r.add("TLS %t", err == nil) }

// A recorder is told of every look-up, and of how long it took where somebody was asked.
func TestLookupsAreRecorded(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		backend     delayed
		first, then []string
	}{
		"both families": {
			delayed{{20 * ms, addrs("192.0.2.1"), nil}, {10 * ms, addrs("2001:db8::1"), nil}},
			[]string{"hit after 10ms", "hit after 20ms", "miss", "miss"}, []string{"hit", "hit"},
		},
		"one of them": {
			delayed{{10 * ms, addrs("192.0.2.1"), nil}, {20 * ms, nil, nil}},
			[]string{"hit after 10ms", "miss", "miss", "negative after 20ms"}, []string{"hit", "negative"},
		},
		"nobody tells": {
			delayed{{10 * ms, nil, errors.New("no")}, {10 * ms, nil, errors.New("no")}},
			[]string{"failed after 10ms", "failed after 10ms", "miss", "miss"}, []string{"failed", "failed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := new(recorded)
				d := newDialer(t, nil, "allow 0.0.0.0/0 ::/0")
				d.Recorder = r
				d.forget(&tt.backend)
				to := Hop{host: "origin.test", port: 1, check: func(netip.Addr) error { return nil }}
				for _, want := range [][]string{tt.first, tt.then} {
					_, _ = d.collect(t.Context(), to, d.Order.Both())
					synctest.Wait()
					if got := r.take(); !slices.Equal(got, want) {
						t.Errorf("told %q, want %q", got, want)
					}
				}
				if _, _ = d.ForUpstreams().TellUnchecked(target.Target{Host: "origin.test", Port: 443}, new(Through)).Next(t.Context()); len(r.take()) > 0 {
					t.Error("look-ups of upstreams are those of no handler")
				}
			})
		})
	}
}

// What an answer is: addresses whose time is over are stale, whatever they are.
func TestLookupOf(t *testing.T) {
	for want, a := range map[Lookup]dnscache.Answer{
		Hit:      {Addrs: addrs("192.0.2.1")},
		Stale:    {Addrs: addrs("192.0.2.1"), Stale: true},
		Negative: {Err: &net.DNSError{IsNotFound: true}},
		Failed:   {Err: &net.DNSError{IsTimeout: true}},
		Refused:  {Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}},
	} {
		if got := lookupOf(&a); got != want {
			t.Errorf("%+v is %s, want %s", a, got, want)
		}
	}
}
