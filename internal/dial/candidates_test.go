package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
)

// candidatesOf are addresses that all may be dialed.
func candidatesOf(list ...netip.Addr) *candidates {
	c := newCandidates(Orders["6"], new(FailedAddrs), Hop{host: "origin.test", port: 80, check: anyAddr})
	c.add(dnscache.Answer{Addrs: list})
	return c
}

func anyAddr(netip.Addr) error { return nil }

// drain takes all addresses out, in their order.
func (c *candidates) drain() string {
	var out []string
	for a, ok := c.next(); ok; a, ok = c.next() {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

// The families alternate, and addresses that failed come last (RFC 8305 §4).
func TestCandidateOrder_RFC8305_4(t *testing.T) {
	for _, tc := range []struct{ order, in, failed, want string }{
		{"6", "192.0.2.1", "", "192.0.2.1"},
		{"6", "192.0.2.1 192.0.2.2", "", "192.0.2.1 192.0.2.2"},
		{"6", "2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "", "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		{"6", "192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1", "", "2001:db8::1 192.0.2.1 192.0.2.2 192.0.2.3"},
		{"4", "2001:db8::1 2001:db8::2 192.0.2.1", "", "192.0.2.1 2001:db8::1 2001:db8::2"},
		{"4_only", "2001:db8::1 192.0.2.1 ::ffff:192.0.2.2", "", "192.0.2.1 192.0.2.2"},
		{"6_only", "2001:db8::1 192.0.2.1 ::ffff:192.0.2.2", "", "2001:db8::1"},
		{"6", "2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.2", "2001:db8::2 192.0.2.1 2001:db8::1 192.0.2.2"},
		{"6", "2001:db8::1 192.0.2.1 192.0.2.2", "2001:db8::1", "192.0.2.1 192.0.2.2 2001:db8::1"},
		{"6", "2001:db8::1 192.0.2.1", "2001:db8::1 192.0.2.1", "2001:db8::1 192.0.2.1"},
	} {
		failed := new(FailedAddrs)
		for _, a := range addrs(strings.Fields(tc.failed)...) {
			failed.Mark(netip.AddrPortFrom(a, 80))
		}
		c := newCandidates(Orders[tc.order], failed, Hop{port: 80, check: anyAddr})
		c.add(dnscache.Answer{Addrs: addrs(strings.Fields(tc.in)...)})
		if got := c.drain(); got != tc.want {
			t.Errorf("%s: %s, failed %q: %s", tc.order, tc.in, tc.failed, got)
		}
	}
}

// Addresses that come later join the alternation.
func TestCandidatesArriveLater(t *testing.T) {
	c := candidatesOf(addrs("192.0.2.1", "192.0.2.2")...)
	first, _ := c.next()
	c.add(dnscache.Answer{Addrs: addrs("2001:db8::1", "2001:db8::2")})
	if got := first.String() + " " + c.drain(); got != "192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::2" {
		t.Error(got)
	}
}

// What the failure of a name says when nothing could be dialed.
func TestCandidatesFailure(t *testing.T) {
	none := &net.DNSError{Err: "no address", IsNotFound: true}
	broken := &net.DNSError{Err: "SERVFAIL", IsTemporary: true}
	refusing := errors.New("refused")
	done, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, tc := range []struct {
		name    string
		ctx     context.Context
		answers []dnscache.Answer
		want    error
		kind    *failure.Failure
	}{
		{"nothing", t.Context(), nil, nil, failure.NoName},
		{"not found", t.Context(), []dnscache.Answer{{Err: none}, {Err: none}}, none, failure.NoName},
		{"one family broken", t.Context(), []dnscache.Answer{{Err: none}, {Err: broken}}, broken, failure.DNS},
		{"the other family broken", t.Context(), []dnscache.Answer{{Err: broken}, {Err: none}}, broken, failure.DNS},
		{"refused", t.Context(), []dnscache.Answer{{Addrs: addrs("192.0.2.1")}, {Err: broken}}, refusing, failure.Internal},
		{"no answer in time", done, nil, context.DeadlineExceeded, failure.DNSTimeout},
		{"an answer missing", done, []dnscache.Answer{{Err: none}}, context.DeadlineExceeded, failure.DNSTimeout},
	} {
		c := newCandidates(Orders["6"], new(FailedAddrs), Hop{host: "origin.test", check: func(netip.Addr) error { return refusing }})
		for _, a := range tc.answers {
			c.add(a)
		}
		err := c.failure(tc.ctx)
		if tc.want != nil && !errors.Is(err, tc.want) || failure.Of(err) != tc.kind {
			t.Errorf("%s: %v is %s", tc.name, err, failure.Of(err).Type)
		}
	}
}

// The memory of failed addresses is bounded in size and time.
func TestFailedAddrs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(FailedAddrs)
		at := func(n int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 443)
		}
		f.Mark(at(0))
		if !f.Has(at(0)) || f.Has(at(1)) || f.Has(netip.AddrPortFrom(at(0).Addr(), 80)) {
			t.Error("what failed is not what is remembered")
		}
		f.Clear(at(0))
		if f.Has(at(0)) || f.count.Load() != 0 {
			t.Error("an address that works again is still remembered")
		}
		f.Mark(at(0))
		time.Sleep(failedFor - 1)
		if !f.Has(at(0)) {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Nanosecond)
		if f.Has(at(0)) || f.count.Load() != 0 {
			t.Error("remembered for too long")
		}
		for n := range 3 * maxFailedAddrs {
			f.Mark(at(n))
			if !f.Has(at(n)) {
				t.Fatalf("address %d is not remembered", n)
			}
		}
		if len(f.until) > maxFailedAddrs {
			t.Errorf("%d addresses are remembered", len(f.until))
		}
	})
}

// delayed is a backend that answers each family after a time.
type delayed [2]struct {
	after time.Duration
	addrs []netip.Addr
	err   error
}

func (b *delayed) Lookup(ctx context.Context, _ string, f dnscache.Family) (dnscache.Reply, error) {
	select {
	case <-time.After(b[f].after):
		return dnscache.Reply{Addrs: b[f].addrs, TTL: time.Minute}, b[f].err
	case <-ctx.Done():
		return dnscache.Reply{}, ctx.Err()
	}
}

func (*delayed) CloseIdle() {}

// When which addresses are there: those of the first family at once, those of the
// other 50 ms later at most (RFC 8305 §3).
func TestResolutionDelay_RFC8305_3(t *testing.T) {
	const ms = time.Millisecond
	v6, v4 := addrs("2001:db8::1"), addrs("192.0.2.1")
	type arrival struct {
		at time.Duration
		of string // "4", "6", or "-" for an answer without addresses
	}
	for _, tc := range []struct {
		name   string
		order  string
		b      delayed // IPv4, IPv6
		cached string  // families that are known before
		want   []arrival
	}{
		{"v6 first", "6", delayed{{20 * ms, v4, nil}, {10 * ms, v6, nil}}, "", []arrival{{10 * ms, "6"}, {20 * ms, "4"}}},
		{"v4 first, v6 in time", "6", delayed{{10 * ms, v4, nil}, {40 * ms, v6, nil}}, "", []arrival{{40 * ms, "6"}, {40 * ms, "4"}}},
		{"v4 first, v6 late", "6", delayed{{10 * ms, v4, nil}, {100 * ms, v6, nil}}, "", []arrival{{60 * ms, "4"}, {100 * ms, "6"}}},
		{"v4 first, v6 has none", "6", delayed{{10 * ms, v4, nil}, {30 * ms, nil, nil}}, "", []arrival{{30 * ms, "-"}, {30 * ms, "4"}}},
		{"v4 has none, v6 late", "6", delayed{{10 * ms, nil, nil}, {100 * ms, v6, nil}}, "", []arrival{{100 * ms, "6"}, {100 * ms, "-"}}},
		{"prefer 4", "4", delayed{{40 * ms, v4, nil}, {10 * ms, v6, nil}}, "", []arrival{{40 * ms, "4"}, {40 * ms, "6"}}},
		{"4 only", "4_only", delayed{{40 * ms, v4, nil}, {10 * ms, v6, nil}}, "", []arrival{{40 * ms, "4"}, {40 * ms, "-"}}},
		{"v6 known", "6", delayed{{40 * ms, v4, nil}, {10 * ms, v6, nil}}, "6", []arrival{{0, "6"}, {40 * ms, "4"}}},
		{"v4 known, v6 late", "6", delayed{{0, v4, nil}, {100 * ms, v6, nil}}, "4", []arrival{{50 * ms, "4"}, {100 * ms, "6"}}},
		{"v6 fails", "6", delayed{{10 * ms, v4, nil}, {20 * ms, nil, errors.New("x")}}, "", []arrival{{20 * ms, "-"}, {20 * ms, "4"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				names := NewNames(dnscache.New(dnscache.Config{Backend: &tc.b}))
				for _, f := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
					if strings.Contains(tc.cached, f.String()[3:]) {
						_, fl := names.cache.Lookup("origin.test", f)
						<-fl.Done()
						fl.Leave()
					}
				}
				begin := time.Now()
				var got []arrival
				note := func(list []netip.Addr) {
					of := "-"
					if len(list) > 0 {
						of = dnscache.FamilyOf(list[0]).String()[3:]
					}
					got = append(got, arrival{time.Since(begin), of})
				}
				c := newCandidates(Orders[tc.order], names.failed, Hop{check: anyAddr})
				arrivals := names.resolve(t.Context(), "origin.test", c.order, c, nil)
				for _, list := range slices.Concat(c.good[:1], c.good[1:]) {
					if len(list) > 0 {
						note(list)
					}
				}
				for answer := range arrivals {
					note(answer.Addrs)
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("%v, want %v", got, tc.want)
				}
			})
		})
	}
}
