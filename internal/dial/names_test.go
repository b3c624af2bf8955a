package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// asking makes a dialer ask a DNS server of the test's own.
func (d *Dialer) asking(t testing.TB, s *dnstest.Server) {
	t.Helper()
	server, err := dnscache.ParseServer(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dnscache.NewClient([]dnscache.Server{server}, nil, nil, dnscache.System{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	d.forget(client)
}

// errUnreachable is how scripted dials fail.
var errUnreachable = errors.New("unreachable")

// dialLog records which addresses are dialed, all of which fail.
type dialLog struct {
	mu   sync.Mutex
	list []netip.AddrPort
}

func (l *dialLog) dial(_ context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, a)
	return nil, errUnreachable
}

func (l *dialLog) take() []netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

// Scenario 10 of the plan: a name whose IPv6 address is a black hole. IPv4 starts
// 250 ms after it and wins, and is tried first from then on.
func TestBlackHole_RFC8305_5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v6, v4 := addrs("2001:db8::1"), addrs("192.0.2.1")
		d := newDialer(t, nil, "allow 0.0.0.0/0 ::/0")
		d.FallbackDelay = 250 * time.Millisecond
		d.forget(&delayed{{20 * time.Millisecond, v4, nil}, {10 * time.Millisecond, v6, nil}})
		type start struct {
			at   time.Duration
			addr netip.Addr
		}
		begin := time.Now()
		var mu sync.Mutex
		var starts []start
		d.DialAddr = func(ctx context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
			mu.Lock()
			starts = append(starts, start{time.Since(begin), a.Addr()})
			mu.Unlock()
			if a.Addr().Is6() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(30 * time.Millisecond)
			return new(net.TCPConn), nil
		}
		dest := target.Target{Host: "origin.test", Port: 443}
		for i, want := range []struct {
			starts []start
			takes  time.Duration
		}{
			{[]start{{10 * time.Millisecond, v6[0]}, {260 * time.Millisecond, v4[0]}}, 290 * time.Millisecond},
			{[]start{{0, v4[0]}}, 30 * time.Millisecond},
		} {
			begin, starts = time.Now(), nil
			if _, err := d.Dial(t.Context(), dest, false); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took != want.takes || !slices.Equal(starts, want.starts) {
				t.Errorf("dial %d: %v, took %s", i, starts, took)
			}
			synctest.Wait()
		}
	})
}

// Dials are bounded: so many addresses, so many at once.
func TestDialIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many []netip.Addr
		for i := range 100 {
			many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
		d := newDialer(t, (&answers{list: [][]netip.Addr{many}}).resolve, "allow 0.0.0.0/0")
		d.FallbackDelay, d.Timeout = time.Millisecond, time.Minute
		var mu sync.Mutex
		running, most, all := 0, 0, 0
		d.DialAddr = func(ctx context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
			mu.Lock()
			running, all = running+1, all+1
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return nil, errUnreachable
		}
		if _, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 443}, false); !errors.Is(err, errUnreachable) {
			t.Error(err)
		}
		if most != maxConcurrentAttempts || all != maxAttempts {
			t.Errorf("%d addresses dialed, %d at once", all, most)
		}
	})
}

// A client that leaves ends its dials at once. Its question goes on, for whoever asks next.
func TestDialEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := newDialer(t, nil, "allow 0.0.0.0/0 ::/0")
		d.FallbackDelay = time.Millisecond
		d.forget(&delayed{{20 * time.Second, addrs("192.0.2.1"), nil}, {0, addrs("2001:db8::1", "2001:db8::2"), nil}})
		ended := 0
		var mu sync.Mutex
		d.DialAddr = func(ctx context.Context, _ netip.AddrPort, _ Source) (*net.TCPConn, error) {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended++
			return nil, ctx.Err()
		}
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		_, err := d.Dial(ctx, target.Target{Host: "origin.test", Port: 443}, false)
		if !errors.Is(err, context.Canceled) || time.Since(begin) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		synctest.Wait()
		if mu.Lock(); ended != 2 {
			t.Errorf("%d of 2 attempts have ended", ended)
		}
		mu.Unlock()
		if n := d.Names.failed.count.Load(); n != 0 {
			t.Errorf("%d addresses count as failed", n)
		}
		_, fl := d.Names.cache.Lookup("origin.test", dnscache.IPv4)
		if fl == nil {
			t.Fatal("a question that takes 20 s was answered")
		}
		<-fl.Done()
		fl.Leave()
		if time.Since(begin) != 20*time.Second {
			t.Errorf("answered after %s; want the answer to the first question", time.Since(begin))
		}
	})
}

// A client that leaves while its only attempt runs is no failure of the address,
// and neither is an attempt that lost before it had its time.
func TestLosersWithoutTimeAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("192.0.2.1", "192.0.2.2")}}).resolve, "allow 0.0.0.0/0")
		d.FallbackDelay = 250 * time.Millisecond
		d.DialAddr = func(ctx context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
			wait := 300 * time.Millisecond // the first, before the second has had 250 ms
			if a.Addr() == addrs("192.0.2.2")[0] {
				wait = time.Hour
			}
			select {
			case <-time.After(wait):
				return new(net.TCPConn), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if _, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 443}, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := d.Names.failed.count.Load(); n != 0 {
			t.Errorf("%d addresses count as failed", n)
		}
	})
}

// Scenario 11: a name that was public and is now 127.0.0.1 is refused, and no SYN
// is sent. The DNS server is a real one.
func TestRebindingToLoopback(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	s := dnstest.Start(t)
	d := newDialer(t, nil, "allow 127.0.0.2/32") // which is what a public address is elsewhere
	dest := target.Target{Host: "rebinding.test", Port: port}
	for round := range 3 {
		s.Set("rebinding.test", dnstest.Records{Addrs: addrs("127.0.0.2"), TTL: 0})
		d.asking(t, s)
		conn, err := d.Dial(t.Context(), dest, false)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		for name, r := range map[string]dnstest.Records{
			"loopback":         {Addrs: addrs("127.0.0.1")},
			"mapped":           {Addrs: addrs("127.0.0.1"), Lie: true},
			"NAT64":            {Addrs: addrs("64:ff9b::7f00:1")},
			"behind an alias":  {Alias: "localhost.test"},
			"with metadata":    {Addrs: addrs("127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254")},
			"a hundred of one": {Addrs: slices.Repeat(addrs("127.0.0.1"), 100), Truncate: true},
		} {
			s.Set("localhost.test", dnstest.Records{Addrs: addrs("127.0.0.1")})
			s.Set("rebinding.test", r)
			d.asking(t, s)
			if _, err := d.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.DeniedAddress {
				t.Errorf("round %d, %s: %v", round, name, err)
			}
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("127.0.0.1 was dialed %d times", n)
	}
	if n := dialedTimes(t, listeners["127.0.0.2"]); n != 3 {
		t.Errorf("127.0.0.2 was dialed %d times", n)
	}
}

// Scenario 12: when the time of an answer is over and the resolver fails, the
// stale one is used and checked again; when the name is gone, it is not.
func TestStaleAnswersAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &delayed{{0, addrs("192.0.2.1"), nil}, {0, nil, nil}}
		d := newDialer(t, nil, "allow 0.0.0.0/0")
		d.forget(b)
		log := new(dialLog)
		d.DialAddr = log.dial
		dest := target.Target{Host: "origin.test", Port: 443}
		want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}
		dial := func() error {
			_, err := d.Dial(t.Context(), dest, false)
			return err
		}
		if err := dial(); !errors.Is(err, errUnreachable) || !slices.Equal(log.take(), want) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b[0].err, b[1].err = errors.New("SERVFAIL"), errors.New("SERVFAIL")
		if err := dial(); !errors.Is(err, errUnreachable) || !slices.Equal(log.take(), want) {
			t.Errorf("stale: %v", err)
		}
		// The rules of a configuration that came meanwhile, with the same cache.
		d.Access = fixture.FixedRules(fixture.AccessList(t, "deny 192.0.2.1", "allow 0.0.0.0/0"))
		if err := dial(); failure.Of(err) != failure.DeniedAddress || len(log.take()) > 0 {
			t.Errorf("stale and denied: %v", err)
		}
		d.Access = fixture.FixedRules(fixture.AccessList(t, "allow 0.0.0.0/0"))
		time.Sleep(dnscache.StaleRecheck)
		b[0].err, b[1].err = nil, nil
		b[0].addrs = nil // gone
		if err := dial(); failure.Of(err) != failure.NoName || len(log.take()) > 0 {
			t.Errorf("gone: %v", err)
		}
	})
}

// prefer_ip, against names and literal addresses.
func TestPreferIP(t *testing.T) {
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("192.0.2.1", "2001:db8::1")}}).resolve, "allow 0.0.0.0/0 ::/0")
	d.FallbackDelay = time.Hour
	log := new(dialLog)
	d.DialAddr = log.dial
	for _, tc := range []struct{ prefer, host, want string }{
		{"6", "origin.test", "[2001:db8::1]:80 192.0.2.1:80"},
		{"4", "origin.test", "192.0.2.1:80 [2001:db8::1]:80"},
		{"6_only", "origin.test", "[2001:db8::1]:80"},
		{"6_only", "192.0.2.7", ""},
		{"4_only", "192.0.2.7", "192.0.2.7:80"},
		{"4_only", "2001:db8::7", ""},
	} {
		d.Order = Orders[tc.prefer]
		d.Names.failed = new(FailedAddrs)
		_, err := d.Dial(t.Context(), fixture.Target(t, net.JoinHostPort(tc.host, "80")), false)
		got := ""
		for _, a := range log.take() {
			got += " " + a.String()
		}
		if got = got[min(len(got), 1):]; got != tc.want {
			t.Errorf("prefer %s, %s: %q dialed", tc.prefer, tc.host, got)
		}
		if tc.want == "" && failure.Of(err) != failure.Unroutable {
			t.Errorf("prefer %s, %s: %v", tc.prefer, tc.host, err)
		}
	}
}

// A name that an upstream will resolve is refused for any of its addresses: which
// families are used here says nothing about which one the upstream takes.
func TestCheckNames_AllFamilies(t *testing.T) {
	for _, prefer := range []string{"4", "6", "4_only", "6_only"} {
		d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
		d.Order = Orders[prefer]
		for _, tc := range []struct {
			addrs split
			want  *failure.Failure
		}{
			{split{addrs("192.0.2.1"), addrs("2001:db8::1")}, nil},
			{split{addrs("192.0.2.1"), nil}, nil},
			{split{nil, addrs("2001:db8::1")}, nil},
			{split{addrs("192.0.2.1"), addrs("2001:db8::1", "::1")}, failure.DeniedAddress},
			{split{addrs("192.0.2.1", "10.0.0.1"), addrs("2001:db8::1")}, failure.DeniedAddress},
			{split{}, failure.NoName},
		} {
			d.forget(tc.addrs)
			err := d.CheckNames(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil)
			if tc.want == nil && err != nil || tc.want != nil && (err == nil || failure.Of(err) != tc.want) {
				t.Errorf("prefer_ip %s, %v: %v", prefer, tc.addrs, err)
			}
		}
	}
}

// An upstream proxy is exempt from the access rules, not from the look for loops.
func TestDialUpstream(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	s := dnstest.Start(t)
	s.Set("parent.test", dnstest.Records{Addrs: addrs("127.0.0.2"), TTL: 60})
	s.Set("self.test", dnstest.Records{Addrs: addrs("127.0.0.1"), TTL: 60})
	s.Set("both.test", dnstest.Records{Addrs: addrs("127.0.0.1", "127.0.0.2"), TTL: 60})
	d := newDialer(t, nil, "deny all")
	d.asking(t, s)
	d.Self = fixture.Self([]string{fmt.Sprintf("tcp/127.0.0.1:%d", port)}, nil)
	for _, tc := range []struct {
		host string
		port uint16
		want *failure.Failure
	}{
		{"parent.test", port, nil},
		{"Parent.Test.", port, nil},
		{"[::ffff:127.0.0.2]", port, nil},
		{"127.0.0.2", port, nil},
		{"::ffff:127.0.0.2", port, nil},
		{"both.test", port, nil},
		{"self.test", port, failure.Loop},
		{"127.0.0.1", port, failure.Loop},
		{"::ffff:127.0.0.1", port, failure.Loop},
		{"nowhere.test", port, failure.NoName},
		{"a b", port, failure.Target},
		{"parent.test", freePort(t), failure.Refused},
	} {
		conn, err := d.DialUpstream(t.Context(), tc.host, tc.port)
		switch {
		case tc.want == nil && err != nil:
			t.Errorf("%s: %v", tc.host, err)
		case tc.want == nil:
			if got := RemoteAddr(conn).String(); got != "127.0.0.2" {
				t.Errorf("%s: connected to %s", tc.host, got)
			}
			conn.Close()
		case err == nil || failure.Of(err) != tc.want || conn != nil:
			t.Errorf("%s: %v, %v", tc.host, conn, err)
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("our own listener was dialed %d times", n)
	}
	// The same addresses stay denied as destinations.
	if _, err := d.Dial(t.Context(), target.Target{Host: "parent.test", Port: port}, false); failure.Of(err) != failure.Denied {
		t.Errorf("as a destination: %v", err)
	}
}

// What a dial through the door costs, against one of net.Dialer.
func BenchmarkDial(b *testing.B) {
	port := serveConns(b, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	access, err := acl.New([]acl.Rule{{Subjects: []string{"127.0.0.0/8"}, Allow: true}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	d := &Dialer{
		Access: fixture.FixedRules(access), Self: fixture.Self(nil, nil), Timeout: time.Minute, FallbackDelay: time.Second,
		Order: Orders["6"], DialAddr: ToAddr,
	}
	d.forget(allAtOnce(func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{at.Addr()}, nil }))
	end := func(b *testing.B, conn net.Conn, err error) {
		if err != nil {
			b.Fatal(err)
		}
		conn.(*net.TCPConn).SetLinger(0) // no port stays behind
		conn.Close()
	}
	b.Run("door", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			conn, err := d.Dial(b.Context(), target.Target{Host: "origin.test", Port: at.Port()}, false)
			end(b, conn, err)
		}
	})
	b.Run("net.Dialer", func(b *testing.B) {
		b.ReportAllocs()
		nd := net.Dialer{KeepAlive: -1, Timeout: time.Minute}
		for b.Loop() {
			conn, err := nd.DialContext(b.Context(), "tcp", at.String())
			end(b, conn, err)
		}
	})
}

// An address that is known is dialed, whatever becomes of the question for the other
// family that is under way.
func TestDialUsesWhatIsKnown(t *testing.T) {
	v4, v6 := addrs("192.0.2.1"), addrs("2001:db8::1")
	for _, known := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		for _, prefer := range []string{"4", "6"} {
			for name, other := range map[string]struct {
				after time.Duration
				err   error
			}{"has none": {time.Second, nil}, "fails": {time.Second, errors.New("x")}, "is silent": {time.Hour, nil}} {
				t.Run(fmt.Sprintf("%s known, prefer_ip %s, the other %s", known, prefer, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						defer time.Sleep(time.Minute) // until questions that nobody waits for are over
						b := delayed{{0, v4, nil}, {0, v6, nil}}
						b[1-known].after, b[1-known].addrs, b[1-known].err = other.after, nil, other.err
						d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
						d.Order = Orders[prefer]
						d.forget(&b)
						_, fl := d.Names.cache.Lookup("origin.test", known)
						<-fl.Done()
						fl.Leave()
						var log dialLog
						d.DialAddr = log.dial
						_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 443}, false)
						if !errors.Is(err, errUnreachable) {
							t.Errorf("error %v", err)
						}
						if got := log.take(); len(got) != 1 || dnscache.FamilyOf(got[0].Addr()) != known {
							t.Errorf("dialed %v", got)
						}
					})
				})
			}
		}
	}
}

// A name that could not be asked for, since other questions have all turns, is a limit of
// this proxy: neither the destination nor an upstream is charged.
func TestNoTurnForAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until questions that nobody waits for are over
		d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
		b := &delayed{{time.Hour, nil, nil}, {time.Hour, nil, nil}}
		dest := target.Target{Host: "origin.test", Port: 443}
		for what, connect := range map[string]func() error{
			"dial":   func() error { _, err := d.connect(t.Context(), d.hopTo(dest)); return err },
			"lookup": func() error { _, err := d.Tell(dest, new(Through)).Next(t.Context()); return err },
			"check":  func() error { return d.CheckNames(t.Context(), dest, nil) },
		} {
			for turns, want := range map[int]*failure.Failure{1: failure.Limit, 2: failure.Limit, 3: failure.DNSTimeout} {
				d.Names = NewNames(dnscache.New(dnscache.Config{Backend: b, MaxQuestions: turns}))
				_, other := d.Names.cache.Lookup("other.test", dnscache.IPv4)
				synctest.Wait()
				err := connect()
				if failure.Of(err) != want {
					t.Errorf("%s, %d turns: %v is %v", what, turns, err, failure.Of(err))
				}
				other.Leave()
				time.Sleep(time.Minute)
			}
		}
	})
}

// What is told one address only gets the first that is known: resolvers that never
// answer for one family must not make names unreachable.
func TestLookupTakesTheFirstUsable(t *testing.T) {
	v4, v6 := addrs("192.0.2.1"), addrs("2001:db8::1")
	for _, tc := range []struct {
		name   string
		prefer string
		b      delayed
		want   string
		at     time.Duration
	}{
		{"no answer for the first family", "6", delayed{{time.Second, v4, nil}, {time.Hour, nil, nil}}, "192.0.2.1", time.Second + resolutionDelay},
		{"no answer for the second family", "4", delayed{{time.Second, v4, nil}, {time.Hour, nil, nil}}, "192.0.2.1", time.Second},
		{"the second family is late", "6", delayed{{9 * time.Second, v4, nil}, {time.Second, v6, nil}}, "2001:db8::1", time.Second},
		{"the first is refused", "6", delayed{{2 * time.Second, v4, nil}, {time.Second, addrs("fe80::1"), nil}}, "192.0.2.1", 2 * time.Second},
		{"the second is waited for", "6", delayed{{2 * time.Second, v4, nil}, {time.Second, nil, nil}}, "192.0.2.1", 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until questions that nobody waits for are over
				d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
				d.Order = Orders[tc.prefer]
				d.forget(&tc.b)
				begin := time.Now()
				got, err := d.Tell(target.Target{Host: "origin.test", Port: 443}, new(Through)).Next(t.Context())
				if err != nil || got.String() != tc.want {
					t.Errorf("%v, %v", got, err)
				}
				if took := time.Since(begin); took != tc.at {
					t.Errorf("after %s, want %s", took, tc.at)
				}
				d.forget(&tc.b)
				if got, err := d.ForUpstreams().TellUnchecked(target.Target{Host: "origin.test", Port: 443}, new(Through)).Next(t.Context()); err != nil || !got.IsValid() {
					t.Errorf("unchecked: %v, %v", got, err)
				}
			})
		})
	}
}

// A family that nobody tells does not keep a name that an upstream resolves from
// being checked; one that is told late is checked.
func TestCheckNames_SilentFamily(t *testing.T) {
	for _, tc := range []struct {
		name string
		b    delayed
		want *failure.Failure
	}{
		{"IPv6 is silent", delayed{{time.Second, addrs("192.0.2.1"), nil}, {time.Hour, nil, nil}}, nil},
		{"IPv4 is silent", delayed{{time.Hour, nil, nil}, {time.Second, addrs("2001:db8::1"), nil}}, nil},
		{"IPv6 is refused later", delayed{{0, addrs("192.0.2.1"), nil}, {time.Second, addrs("::1"), nil}}, failure.DeniedAddress},
		{"IPv4 is refused, IPv6 is silent", delayed{{0, addrs("127.0.0.1"), nil}, {time.Hour, nil, nil}}, failure.DeniedAddress},
		{"IPv4 has none, IPv6 is silent", delayed{{0, nil, nil}, {time.Hour, nil, nil}}, failure.DNSTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until questions that nobody waits for are over
				d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
				d.forget(&tc.b)
				err := d.CheckNames(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil)
				if tc.want == nil && err != nil || tc.want != nil && (err == nil || failure.Of(err) != tc.want) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// Who does not wait for all of the answers goes by those that are there in time: a refusal of
// one address counts, and without any answer nothing was checked.
func TestCheckNamesWithin(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name string
		b    delayed
		late bool
		want *failure.Failure
		at   time.Duration
	}{
		{"both in time", delayed{{100 * ms, addrs("192.0.2.1"), nil}, {200 * ms, addrs("2001:db8::1"), nil}}, false, nil, 200 * ms},
		{"none in time", delayed{{time.Hour, nil, nil}, {time.Hour, nil, nil}}, true, nil, 500 * ms},
		{"IPv6 is silent", delayed{{100 * ms, addrs("192.0.2.1"), nil}, {time.Hour, nil, nil}}, false, nil, 500 * ms},
		{"IPv4 is refused, IPv6 is silent", delayed{{100 * ms, addrs("127.0.0.1"), nil}, {time.Hour, nil, nil}}, false, failure.DeniedAddress, 500 * ms},
		{"IPv4 has none, IPv6 is silent", delayed{{0, nil, nil}, {time.Hour, nil, nil}}, true, nil, 500 * ms},
		{"there is none", delayed{{100 * ms, nil, nil}, {100 * ms, nil, nil}}, false, failure.Of(&net.DNSError{IsNotFound: true}), 100 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(time.Minute) // until questions that nobody waits for are over
				d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
				d.forget(&tc.b)
				begin := time.Now()
				late, err := d.CheckNamesWithin(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil, 500*ms)
				if took := time.Since(begin); late != tc.late || took != tc.at {
					t.Errorf("late: %t, after %s", late, took)
				}
				if tc.want == nil && err != nil || tc.want != nil && (err == nil || failure.Of(err) != tc.want) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// Where time is over before a name is known, the name is refused, whatever else happens at
// that moment: nobody has said that its addresses may be reached.
func TestCheckNames_FailsClosed(t *testing.T) {
	for name, b := range map[string]delayed{
		"nothing is known":         {{time.Hour, nil, nil}, {time.Hour, nil, nil}},
		"IPv4 has none, just then": {{time.Second, nil, nil}, {time.Hour, nil, nil}},
		"IPv6 has none, just then": {{time.Hour, nil, nil}, {time.Second, nil, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				synctest.Test(t, func(t *testing.T) {
					defer time.Sleep(time.Minute) // until questions that nobody waits for are over
					d := newDialer(t, nil, "allow 192.0.2.0/24")
					d.Timeout = time.Second
					d.forget(&b)
					if err := d.CheckNames(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil); err == nil {
						t.Error("a name of which nothing is known is allowed")
					}
					ended, cancel := context.WithCancel(t.Context())
					cancel()
					if err := d.CheckNames(ended, target.Target{Host: "other.test", Port: 443}, nil); err == nil {
						t.Error("a name is allowed that nobody waited for")
					}
				})
			}
		})
	}
}
