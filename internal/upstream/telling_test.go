package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// familyServer is a SOCKS5 proxy that gives the addresses of each family one answer.
func familyServer(four, six string) *socksServer {
	s := &socksServer{answers: make(map[string]string)}
	for n := range 100 {
		s.answers[fmt.Sprint("192.0.2.", n)] = four
		s.answers[netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n)).String()] = six
	}
	return s
}

// manyNames is a dialer that knows 100 names dualN.test, fourN.test and sixN.test, and
// many.test with several addresses of IPv6.
func manyNames(prefer string) *dial.Dialer {
	static := make(map[string][]netip.Addr)
	for n := range 100 {
		four, six := netip.MustParseAddr(fmt.Sprint("192.0.2.", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))
		static[fmt.Sprintf("dual%d.test", n)] = []netip.Addr{four, six}
		static[fmt.Sprintf("four%d.test", n)] = []netip.Addr{four}
		static[fmt.Sprintf("six%d.test", n)] = []netip.Addr{six}
	}
	static["many.test"] = addrsOf("192.0.2.5", "2001:db8::a", "2001:db8::b", "2001:db8::c", "2001:db8::d")
	cache := dnscache.New(dnscache.Config{Backend: nobody{}, Static: static})
	return &dial.Dialer{Timeout: time.Minute, Order: dial.Orders[prefer], Names: dial.NewNames(cache)}
}

func addrsOf(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// open asks a member for a tunnel to a name or address within a time, and returns what was
// told last, how long it took and what the member is told of it.
func (m *Member) open(t *testing.T, d *dial.Dialer, host string, within time.Duration) (addr netip.Addr, took time.Duration, v Verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	to := proxydial.Target{Host: host, Port: 443}
	var told *dial.Told
	if a, err := netip.ParseAddr(host); err == nil {
		to.Addr = a
	} else {
		told = d.TellUnchecked(target.Target{Host: host, Port: 443}, &m.Conns.through)
		if to.Addr, err = told.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	tunnel, err := m.DialTunnel(ctx, to, told, proxydial.Client{})
	took, addr = time.Since(began), to.Addr
	if told != nil {
		addr = told.Addr()
	}
	if err == nil {
		_ = tunnel.Conn.Close()
	}
	return addr, took, m.JudgeTunnel(t.Context(), err)
}

// An upstream that is silent about one address family is told the other one beside it, and
// first from then on; once a minute, one request finds out whether that has changed. Nothing
// of this is charged to it.
func TestDialTunnel_SilentFamily(t *testing.T) {
	for _, tc := range []struct {
		name, prefer string
		four, six    string
		within       time.Duration
		first        time.Duration // that the first request takes
		works        func(netip.Addr) bool
	}{
		{"IPv6 is silent", "6", socksSuccess, "-", 5 * time.Second, time.Second, netip.Addr.Is4},
		{"IPv4 is silent", "4", "-", socksSuccess, 5 * time.Second, time.Second, netip.Addr.Is6},
		{"IPv6 is silent, and there is little time", "6", socksSuccess, "-", 600 * time.Millisecond, 200 * time.Millisecond, netip.Addr.Is4},
		{"IPv6 is refused", "6", socksSuccess, refusal(proxydial.SOCKSNetUnreachable), 5 * time.Second, 0, netip.Addr.Is4},
		{"IPv6 ends the connection", "6", socksSuccess, "", 5 * time.Second, 0, netip.Addr.Is4},
		{"IPv4 is refused", "4", refusal(proxydial.SOCKSHostUnreachable), socksSuccess, 5 * time.Second, 0, netip.Addr.Is6},
		{"IPv6 is silent, IPv4 preferred", "4", socksSuccess, "-", 5 * time.Second, 0, netip.Addr.Is4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := familyServer(tc.four, tc.six)
				m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames(tc.prefer)
				dual, alone := 0, "six%d.test"
				if !tc.works(netip.MustParseAddr("192.0.2.1")) {
					alone = "four%d.test"
				}
				next := func(when string, want time.Duration) {
					t.Helper()
					dual++
					a, took, v := m.open(t, d, fmt.Sprintf("dual%d.test", dual), tc.within)
					if !tc.works(a) || v.Kind != health.Success || !v.Reached || took != want {
						t.Errorf("%s: told %s last, %+v after %s", when, a, v, took)
					}
				}
				next("at first", tc.first)
				for range 10 {
					next("then", 0)
				}
				if last := m.ToldLast(); tc.prefer == "6" && last != "IPv6" || tc.name[:6] == "IPv4 i" && last != "IPv4" {
					t.Errorf("%q is told last", last)
				}
				for n := range 5 {
					for _, host := range []string{fmt.Sprintf(alone, 50+n), s.literal(tc.works)} {
						if _, _, v := m.open(t, d, host, tc.within); v.Kind != health.Neutral || v.Failure != failure.UpstreamSilent && v.Failure != failure.UpstreamGateway {
							t.Errorf("%s, of the other family: %+v", host, v)
						}
						next("between", 0)
					}
				}
				time.Sleep(2 * time.Minute)
				if tc.name == "IPv6 is silent, IPv4 preferred" {
					return // nobody tries
				}
				next("a while later", tc.first)
				next("right behind", 0)

				time.Sleep(2 * time.Minute)
				for a := range s.answers {
					s.answers[a] = socksSuccess
				}
				dual++
				if a, _, _ := m.open(t, d, fmt.Sprintf("dual%d.test", dual), tc.within); tc.works(a) {
					t.Errorf("the family is not tried again, but %s", a)
				}
				dual++
				if a, _, _ := m.open(t, d, fmt.Sprintf("dual%d.test", dual), tc.within); tc.works(a) {
					t.Errorf("the family is not trusted again, but %s", a)
				}
				synctest.Wait()
			})
		})
	}
}

// literal is an address of the family that does not work.
func (s *socksServer) literal(works func(netip.Addr) bool) string {
	if a := netip.MustParseAddr("192.0.2.99"); !works(a) {
		return a.String()
	}
	return "2001:db8::63"
}

// What fails for both families is charged to the upstream, and what fails for one of which
// nothing says that the other one works.
func TestDialTunnel_SilentForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer("-", "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		for _, host := range []string{"dual1.test", "four2.test", "six3.test", "2001:db8::4", "192.0.2.5"} {
			if _, took, v := m.open(t, d, host, 5*time.Second); v.Kind != health.ReplyTimeout || v.Failure != failure.UpstreamSilent || took != 5*time.Second {
				t.Errorf("%s: %+v after %s", host, v, took)
			}
		}
		if asked := s.take(); !slices.Equal(asked[:2], []string{"2001:db8::1", "192.0.2.1"}) {
			t.Errorf("asked for %v", asked)
		}

		// It worked for one family, and then for none.
		m.Conns.through.Reached(netip.MustParseAddrPort("192.0.2.1:443"))
		m.Conns.through.Missed(dnscache.IPv6)
		if _, _, v := m.open(t, d, "four6.test", 5*time.Second); v.Kind != health.ReplyTimeout {
			t.Errorf("the family that had worked: %+v", v)
		}
		if _, _, v := m.open(t, d, "dual7.test", 5*time.Second); v.Kind != health.ReplyTimeout {
			t.Errorf("both families: %+v", v)
		}
		if _, _, v := m.open(t, d, "six8.test", 5*time.Second); v.Kind != health.Neutral {
			t.Errorf("the other family, for a while: %+v", v)
		}
		time.Sleep(time.Minute)
		for range 20 {
			if _, _, v := m.open(t, d, "six9.test", 5*time.Second); v.Kind != health.ReplyTimeout {
				t.Errorf("the other family, later: %+v", v)
			}
		}
		synctest.Wait()
	})
}

// Of an upstream that reaches both families, one address that it does not reach says nothing
// about the others; three in a row do.
func TestDialTunnel_OneAddressIsNoFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(socksSuccess, socksSuccess)
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		m.open(t, d, "dual1.test", time.Minute)
		for n := 2; n < 5; n++ {
			s.answers[fmt.Sprint("2001:db8::", n)] = "-"
			if a, took, _ := m.open(t, d, fmt.Sprintf("dual%d.test", n), time.Minute); !a.Is4() || took != toldBeside {
				t.Errorf("told %s last, after %s", a, took)
			}
		}
		if a, took, _ := m.open(t, d, "dual9.test", time.Minute); !a.Is4() || took != 0 {
			t.Errorf("told %s last, after %s", a, took)
		}
		synctest.Wait()
	})
}

// What an upstream has said of one address counts more than that it was silent about another.
func TestDialTunnel_SaysMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(refusal(proxydial.SOCKSHostUnreachable), "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		if _, took, v := m.open(t, d, "dual1.test", 5*time.Second); v.Kind != health.SoftFail || took != 5*time.Second {
			t.Errorf("%+v after %s", v, took)
		}
		synctest.Wait()
	})
}

// An upstream that says no to the addresses that are known is not waited with for a resolver
// that says nothing of the other family; one that is silent is.
func TestDialTunnel_RefusedWhileAFamilyIsAskedFor(t *testing.T) {
	for _, tc := range []struct {
		answer string
		six    time.Duration // until there are IPv6 addresses
		took   time.Duration
		kind   health.Kind
	}{
		{refusal(proxydial.SOCKSHostUnreachable), time.Hour, toldLate, health.SoftFail},
		{refusal(proxydial.SOCKSHostUnreachable), 200 * time.Millisecond, 150 * time.Millisecond, health.Success}, // the first was told after 50 ms
		{refusal(proxydial.SOCKSNotAllowed), time.Hour, toldLate, health.Success},
		{"-", time.Hour, 5 * time.Second, health.ReplyTimeout},
		{"-", 3 * time.Second, 2950 * time.Millisecond, health.Success},
	} {
		t.Run(fmt.Sprintf("%q %s", tc.answer, tc.six), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until questions that nobody waits for are over
				s := familyServer(tc.answer, socksSuccess)
				m := s.member(t, mustNew(t, Config{Static: []*Spec{{}}}))
				d := &dial.Dialer{Timeout: time.Minute, Order: dial.Orders["6"], Names: dial.NewNames(dnscache.New(dnscache.Config{Backend: slowSix(tc.six)}))}
				_, took, v := m.open(t, d, "origin.test", 5*time.Second+50*time.Millisecond)
				if took != tc.took || v.Kind != tc.kind {
					t.Errorf("%+v after %s", v, took)
				}
			})
		})
	}
}

// slowSix knows one IPv4 address of each name at once, and one of IPv6 after a time.
type slowSix time.Duration

func (b slowSix) Lookup(ctx context.Context, name string, f dnscache.Family) (dnscache.Reply, error) {
	if f == dnscache.IPv4 {
		return dnscache.Reply{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, TTL: time.Hour}, nil
	}
	select {
	case <-time.After(time.Duration(b)):
		return dnscache.Reply{Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, TTL: time.Hour}, nil
	case <-ctx.Done():
		return dnscache.Reply{}, ctx.Err()
	}
}

func (slowSix) CloseIdle() {}

// The upstream itself that cannot be connected to is asked once, and charged.
func TestDialTunnel_NoUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(socksSuccess, "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		m.open(t, d, "dual1.test", time.Minute)
		dials := 0
		s.broken = func(ctx context.Context) error {
			dials++
			<-ctx.Done()
			return ctx.Err()
		}
		for _, host := range []string{"dual2.test", "six3.test"} {
			dials = 0
			if _, _, v := m.open(t, d, host, 5*time.Second); v.Kind != health.ConnectFailure || dials != 1 {
				t.Errorf("%s: %+v, dialed %d times", host, v, dials)
			}
		}
		s.broken = func(context.Context) error { return errors.New("refused") }
		if _, took, v := m.open(t, d, "dual4.test", 5*time.Second); v.Kind != health.ConnectFailure || took != 0 {
			t.Errorf("%+v after %s", v, took)
		}
		synctest.Wait()
	})
}

// Where the client leaves, nothing is held against addresses.
func TestDialTunnel_ClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer("-", "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		told := d.TellUnchecked(target.Target{Host: "dual1.test", Port: 443}, &m.Conns.through)
		a, _ := told.Next(ctx)
		_, err := m.DialTunnel(ctx, proxydial.Target{Host: "dual1.test", Port: 443, Addr: a}, told, proxydial.Client{})
		if v := m.JudgeTunnel(ctx, err); v.Kind != health.Cancelled {
			t.Errorf("%+v", v)
		}
		s.take()
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second/2, cancel)
		told = d.TellUnchecked(target.Target{Host: "dual1.test", Port: 443}, &m.Conns.through)
		if a, _ = told.Next(ctx); !strings.Contains(a.String(), "db8") {
			t.Errorf("told %s first", a)
		}
		synctest.Wait()
	})
}

// A check by name passes over the family that works, well within its time, and is quick from
// then on.
func TestCheck_SilentFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "dual1.test:443"
		g := mustNew(t, Config{Static: []*Spec{{}}, Checks: &Checks{
			Type: CheckConnect, Interval: time.Hour, Timeout: 3 * time.Second, Passes: 1, Fails: 1,
			Targets: []CheckTarget{{Text: text, Dest: target.Target{Host: "dual1.test", Port: 443}}},
		}})
		m := familyServer(socksSuccess, "-").member(t, g)
		m.Conns.tell = manyNames("6").TellUnchecked
		for _, want := range []time.Duration{time.Second, 0} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			ctx, err := g.lookUpTarget(ctx, &m.ref, text)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := g.check(ctx, &m.ref, text); err != nil || time.Since(began) != want {
				t.Errorf("%v after %s", err, time.Since(began))
			}
			cancel()
		}
		synctest.Wait()
	})
}

// An address that failed lately comes before those of a family that the upstream does not
// reach: there may be more of these than are told.
func TestDialTunnel_FailedAddressBeforeFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(socksSuccess, "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		m.open(t, d, "dual1.test", 5*time.Second) // IPv6 is told last from now on
		m.Conns.through.Failed(netip.MustParseAddrPort("192.0.2.5:443"))
		if a, took, v := m.open(t, d, "many.test", 5*time.Second); !a.Is4() || took != 0 || v.Kind != health.Success {
			t.Errorf("told %s last, %+v after %s; asked for %v", a, v, took, s.take())
		}
		synctest.Wait()
	})
}

// Whether a family is reached again, a request finds out that has an address of it.
func TestDialTunnel_TrialWithAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(socksSuccess, "-")
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		m.open(t, d, "dual1.test", 5*time.Second)
		for a := range s.answers {
			s.answers[a] = socksSuccess
		}
		time.Sleep(2 * time.Minute)
		for n := range 3 {
			m.open(t, d, fmt.Sprintf("four%d.test", n), 5*time.Second)
		}
		if a, _, _ := m.open(t, d, "dual2.test", 5*time.Second); a.Is4() {
			t.Errorf("told %s", a)
		}
		synctest.Wait()
	})
}

// An upstream that does not allow addresses of one family (Tor says that of a family that no
// exit takes) is told those of the other one. What is said of the name is no less certain
// where none of them stands.
func TestDialTunnel_NotAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := familyServer(socksSuccess, refusal(proxydial.SOCKSNotAllowed))
		m, d := s.member(t, mustNew(t, Config{Static: []*Spec{{}}})), manyNames("6")
		for n := range 5 {
			a, took, v := m.open(t, d, fmt.Sprintf("dual%d.test", n), 5*time.Second)
			if !a.Is4() || v.Kind != health.Success || v.Failure != nil || took != 0 {
				t.Errorf("told %s last, %+v after %s", a, v, took)
			}
		}
		if asked := s.take(); len(asked) != 6 { // the family is told last from the second on
			t.Errorf("asked for %v", asked)
		}
		for _, host := range []string{"six9.test", "2001:db8::9"} {
			if _, _, v := m.open(t, d, host, 5*time.Second); v.Kind != health.Success || v.Failure != failure.UpstreamDenied {
				t.Errorf("%s: %+v", host, v)
			}
		}
		s.answers["192.0.2.10"] = refusal(proxydial.SOCKSHostUnreachable)
		if _, _, v := m.open(t, d, "dual10.test", 5*time.Second); v.Kind != health.Success || v.Failure != failure.UpstreamDenied {
			t.Errorf("%+v", v)
		}
		synctest.Wait()
	})
}
