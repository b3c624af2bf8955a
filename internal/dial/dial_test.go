package dial

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// answers is a resolver that gives one answer after the other, the last one
// again and again, and counts.
type answers struct {
	list  [][]netip.Addr
	asked atomic.Int32
}

func (a *answers) resolve(_ context.Context, _ string) ([]netip.Addr, error) {
	n := int(a.asked.Add(1)) - 1
	return a.list[min(n, len(a.list)-1)], nil
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// allAtOnce is a backend that tells all addresses of a name, whatever their
// family, when it is asked for those of IPv6, and none else. So it is asked once.
type allAtOnce func(context.Context, string) ([]netip.Addr, error)

func (b allAtOnce) Lookup(ctx context.Context, name string, f dnscache.Family) (dnscache.Reply, error) {
	if f == dnscache.IPv4 {
		return dnscache.Reply{TTL: time.Minute}, nil
	}
	list, err := b(ctx, name)
	return dnscache.Reply{Addrs: list, TTL: time.Minute}, err
}

func (allAtOnce) CloseIdle() {}

// forget lets the time of all answers pass.
func (d *Dialer) forget(b dnscache.Backend) {
	d.Names = NewNames(dnscache.New(dnscache.Config{Backend: b}))
}

// warm has a name resolved.
func (d *Dialer) warm(host string) {
	for _, f := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		if _, fl := d.Names.cache.Lookup(host, f); fl != nil {
			<-fl.Done()
			fl.Leave()
		}
	}
}

// newDialer is a dialer with rules and a resolver of the test's own. Nothing
// counts as a listener of this process.
func newDialer(t *testing.T, resolve func(context.Context, string) ([]netip.Addr, error), rules ...string) *Dialer {
	t.Helper()
	d := &Dialer{
		Access:        fixture.FixedRules(fixture.AccessList(t, rules...)),
		Self:          fixture.Self(nil, nil),
		Timeout:       10 * time.Second,
		FallbackDelay: 10 * time.Second, // no test here waits for it
		TLSTimeout:    10 * time.Second,
		TLSConfig:     new(tls.Config),
		Order:         Orders["6"],
		DialAddr:      ToAddr,
	}
	d.forget(allAtOnce(resolve))
	return d
}

// listenAt are listeners on one port of several loopback addresses.
func listenAt(t testing.TB, hosts ...string) (uint16, map[string]net.Listener) {
	t.Helper()
	for range 20 {
		listeners := make(map[string]net.Listener)
		port := "0"
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				break // the port is taken there
			}
			listeners[host] = ln
			_, port, _ = net.SplitHostPort(ln.Addr().String())
		}
		if len(listeners) == len(hosts) {
			t.Cleanup(func() {
				for _, ln := range listeners {
					ln.Close()
				}
			})
			return uint16(listeners[hosts[0]].Addr().(*net.TCPAddr).Port), listeners
		}
		for _, ln := range listeners {
			ln.Close()
		}
	}
	t.Fatalf("no port that is free on all of %v", hosts)
	return 0, nil
}

// dialedTimes is how many connections have been made to a listener so far: it
// makes one itself, behind all others in the queue.
func dialedTimes(t *testing.T, ln net.Listener) int {
	t.Helper()
	last, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for n := 0; ; n++ {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn.RemoteAddr().String() == last.LocalAddr().String() {
			return n
		}
	}
}

func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, before)
		}
	})
}

// Every address of an answer is checked, and only those that pass are dialed.
func TestDialChecksEveryAddress(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	for _, tc := range []struct {
		name   string
		rules  []string
		answer []netip.Addr
		reach  string // the address that is connected to, "" for none
		want   *failure.Failure
	}{
		{"denied by default", nil, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"allowed", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.2"), "127.0.0.2", nil},
		{"denied, then allowed", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.1", "127.0.0.2"), "127.0.0.2", nil},
		{"allowed, then denied", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.2", "127.0.0.1", "127.0.0.3"), "127.0.0.2", nil},
		{"all denied", []string{"allow 127.0.0.9/32"}, addrs("127.0.0.1", "127.0.0.2", "127.0.0.3"), "", failure.DeniedAddress},
		{"denied by a rule", []string{"deny 127.0.0.2", "allow 127.0.0.0/8"}, addrs("127.0.0.2"), "", failure.DeniedAddress},
		{"allowed by name only", []string{"allow origin.test"}, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"allow all", []string{"allow all"}, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"IPv4-mapped, denied", nil, addrs("::ffff:127.0.0.1"), "", failure.DeniedAddress},
		{"IPv4-mapped, allowed", []string{"allow 127.0.0.2/32"}, addrs("::ffff:127.0.0.2"), "127.0.0.2", nil},
		{"IPv4-mapped, mixed", []string{"allow 127.0.0.2/32"}, addrs("::ffff:127.0.0.1", "::ffff:127.0.0.2"), "127.0.0.2", nil},
		{"NAT64 of loopback", []string{"allow 64:ff9b::/96"}, addrs("64:ff9b::7f00:1"), "", failure.DeniedAddress},
		{"unspecified", nil, addrs("0.0.0.0", "::"), "", failure.DeniedAddress},
		{"invalid", nil, []netip.Addr{{}}, "", failure.DNS},
		{"link-local with a zone", nil, addrs("fe80::1%lo"), "", failure.DeniedAddress},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resolver := &answers{list: [][]netip.Addr{tc.answer}}
			conn, err := newDialer(t, resolver.resolve, tc.rules...).Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
			if tc.want != nil {
				if err == nil || failure.Of(err) != tc.want {
					t.Errorf("error %v, want %s", err, tc.want.Type)
				}
			} else if err != nil {
				t.Error(err)
			}
			if conn != nil && err == nil {
				if got := RemoteAddr(conn).String(); got != tc.reach {
					t.Errorf("connected to %s", got)
				}
				conn.Close()
			}
			for host, ln := range listeners {
				want := 0
				if host == tc.reach {
					want = 1
				}
				if n := dialedTimes(t, ln); n != want {
					t.Errorf("%s was dialed %d times, want %d", host, n, want)
				}
			}
			if n := resolver.asked.Load(); n != 1 {
				t.Errorf("resolved %d times", n)
			}
		})
	}
}

// A literal address is checked and is not resolved.
func TestDialLiteralAddress(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	d := newDialer(t, func(context.Context, string) ([]netip.Addr, error) {
		t.Error("resolved")
		return nil, nil
	}, "allow 127.0.0.2/32")
	literal := func(host string) target.Target {
		return fixture.Target(t, net.JoinHostPort(host, fmt.Sprint(port)))
	}
	conn, err := d.Dial(t.Context(), literal("127.0.0.2"), false)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, host := range []string{"127.0.0.1", "::ffff:127.0.0.1", "2130706433", "0.0.0.0", "::1"} {
		if conn, err := d.Dial(t.Context(), literal(host), false); err == nil || failure.Of(err) != failure.DeniedAddress {
			t.Errorf("%s: %v", host, err)
			if conn != nil {
				conn.Close()
			}
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("127.0.0.1 was dialed %d times", n)
	}
}

// A name that changes its address between check and dial gains nothing: there
// is one look-up only, and each dial has its own check.
func TestDialRebinding(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	// 127.0.0.2 is what a public address is elsewhere.
	resolver := &answers{list: [][]netip.Addr{addrs("127.0.0.2"), addrs("127.0.0.1")}}
	d := newDialer(t, resolver.resolve, "allow 127.0.0.2/32")
	dest := target.Target{Host: "rebinding.test", Port: port}
	conn, err := d.Dial(t.Context(), dest, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n := resolver.asked.Load(); n != 1 {
		t.Errorf("resolved %d times for one dial", n)
	}
	if got := RemoteAddr(conn).String(); got != "127.0.0.2" {
		t.Errorf("connected to %s", got)
	}
	for range 3 {
		d.forget(allAtOnce(resolver.resolve))
		if _, err := d.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.DeniedAddress {
			t.Errorf("second answer: %v", err)
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("127.0.0.1 was dialed %d times", n)
	}
}

// An address on which this process listens is not dialed, unless a rule names
// it with its port.
func TestDialSelf(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1")
	own := fmt.Sprintf("127.0.0.1:%d", port)
	for _, tc := range []struct {
		rule   string
		answer string
		want   *failure.Failure
	}{
		{"allow 127.0.0.0/8", "127.0.0.1", failure.Loop},
		{"allow 127.0.0.1", "127.0.0.1", failure.Loop},
		{"allow 127.0.0.1", "::ffff:127.0.0.1", failure.Loop},
		{"allow 0.0.0.0/0", "0.0.0.0", failure.Loop},
		{"allow " + own, "127.0.0.1", nil},
	} {
		t.Run(tc.rule+" "+tc.answer, func(t *testing.T) {
			d := newDialer(t, (&answers{list: [][]netip.Addr{addrs(tc.answer)}}).resolve, tc.rule)
			d.Self = fixture.Self([]string{"tcp/" + own}, nil)
			want := 0
			conn, err := d.Dial(t.Context(), target.Target{Host: "self.test", Port: port}, false)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				want = 1
			} else if err == nil || failure.Of(err) != tc.want {
				t.Errorf("error %v", err)
			}
			if n := dialedTimes(t, listeners["127.0.0.1"]); n != want {
				t.Errorf("dialed %d times", n)
			}
		})
	}
}

func TestDialNoAddresses(t *testing.T) {
	_, err := newDialer(t, (&answers{list: [][]netip.Addr{nil}}).resolve).Dial(t.Context(), target.Target{Host: "o1.test", Port: 80}, false)
	if err == nil || failure.Of(err) != failure.DNS {
		t.Errorf("%v", err)
	}
}

// The error says what is missing: not one family where both were asked for.
func TestDialNoAddresses_Text(t *testing.T) {
	for prefer, want := range map[string]string{
		"4": "no addresses", "6": "no addresses", "4_only": "no IPv4 address", "6_only": "no IPv6 address",
	} {
		d := newDialer(t, nil)
		d.forget(split{})
		d.Order = Orders[prefer]
		for range 2 { // asked for, and from the cache
			_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false)
			if err == nil || err.Error() != "lookup origin.test: "+want || failure.Of(err) != failure.DNS {
				t.Errorf("prefer_ip %s: %v", prefer, err)
			}
		}
	}
	d := newDialer(t, nil)
	for _, broken := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		b := &delayed{}
		b[broken].err = errUnreachable
		d.forget(b)
		if _, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false); !errors.Is(err, errUnreachable) {
			t.Errorf("%v fails: %v", broken, err)
		}
	}
}

// What the resolver of Go reports, from a server of the test's own.
func TestDialResolverErrors(t *testing.T) {
	for _, tc := range []struct {
		name    string
		respond func(*dnsmessage.Message)
		want    *failure.Failure
	}{
		{"NXDOMAIN", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }, failure.DNS},
		{"SERVFAIL", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }, failure.DNS},
		{"REFUSED", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }, failure.DNS},
		{"no addresses", func(*dnsmessage.Message) {}, failure.DNS},
		{"silence", nil, failure.DNSTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noLeaks(t)
			server := &dnsServer{respond: tc.respond}
			d := newDialer(t, nil)
			d.forget(dnscache.System{Resolver: server.resolver(t)})
			if tc.respond == nil {
				d.Timeout = 20 * time.Millisecond
			}
			_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false)
			if err == nil || failure.Of(err) != tc.want {
				t.Errorf("%v is not %s", err, tc.want.Type)
			}
		})
	}
}

// A client that leaves while its name is resolved is nobody's failure.
func TestDialResolverCanceled(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	server := &dnsServer{asked: func(string) { cancel() }}
	d := newDialer(t, nil)
	d.forget(dnscache.System{Resolver: server.resolver(t)})
	_, err := d.Dial(ctx, target.Target{Host: "origin.test", Port: 80}, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if f := failure.Of(err); f != failure.Canceled {
		t.Errorf("classified as %s", f.Type)
	}
}

// dnsServer answers over a pipe, as a DNS server does over TCP.
type dnsServer struct {
	asked   func(name string)
	respond func(*dnsmessage.Message) // nil: silence
}

// resolver is Go's own resolver that asks this server. At the end of the test
// the server goes away: the resolver goes on asking for a while after whoever
// waited for the answer has left.
func (s *dnsServer) resolver(t *testing.T) *net.Resolver {
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone) })
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		select {
		case <-gone:
			return nil, net.ErrClosed
		default:
		}
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			select {
			case <-gone:
			case <-done:
			}
			server.Close()
		}()
		go func() {
			defer close(done)
			s.serve(server)
		}()
		return client, nil
	}}
}

func (s *dnsServer) serve(conn net.Conn) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(query) != nil || len(m.Questions) == 0 {
			return
		}
		if s.asked != nil {
			s.asked(m.Questions[0].Name.String())
		}
		if s.respond == nil {
			continue
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		s.respond(&m)
		answer, err := m.Pack()
		if err != nil {
			return
		}
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

func TestDialRefused(t *testing.T) {
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	dest := fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if _, err := d.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.Refused {
		t.Errorf("%v", err)
	}
}

// An address that refuses is followed by the next at once, without the delay.
func TestDialNextAfterRefusal(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1")
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.2", "127.0.0.3", "127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
	d.FallbackDelay = time.Hour
	conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 1 {
		t.Errorf("dialed %d times", n)
	}
}

func TestDialTimeout(t *testing.T) {
	port, _ := listenAt(t, "127.0.0.1")
	for _, answer := range [][]netip.Addr{addrs("127.0.0.1"), addrs("127.0.0.1", "127.0.0.2")} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{answer}}).resolve, "allow 127.0.0.0/8")
		d.warm("origin.test")
		d.Timeout = time.Nanosecond
		_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
		if err == nil || failure.Of(err) != failure.DialTimeout {
			t.Errorf("%v: %v", answer, err)
		}
	}
}

func TestDialCanceled(t *testing.T) {
	port, _ := listenAt(t, "127.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, answer := range [][]netip.Addr{addrs("127.0.0.1"), addrs("127.0.0.1", "127.0.0.2")} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{answer}}).resolve, "allow 127.0.0.0/8")
		_, err := d.Dial(ctx, target.Target{Host: "origin.test", Port: port}, false)
		if err == nil || failure.Of(err) != failure.Canceled {
			t.Errorf("%v: %v", answer, err)
		}
	}
}

// attempt is what dialing an address brings, and when.
type attempt struct {
	after time.Duration
	err   error // nil: a connection
	hangs bool  // until it is cancelled
}

// raceTest dials addresses as the script says, in the time of a synctest
// bubble.
type raceTest struct {
	*testing.T
	begin  time.Time
	script map[netip.Addr]attempt

	mu      sync.Mutex
	started map[netip.Addr]time.Duration
	open    map[netip.Addr]bool
}

// raceConn is a connection that tells when it is closed.
type raceConn struct {
	race *raceTest
	addr netip.Addr
}

func (c raceConn) Close() error {
	c.race.mu.Lock()
	defer c.race.mu.Unlock()
	c.race.open[c.addr] = false
	return nil
}

func newRaceTest(t *testing.T, script map[netip.Addr]attempt) *raceTest {
	return &raceTest{T: t, begin: time.Now(), script: script, started: make(map[netip.Addr]time.Duration), open: make(map[netip.Addr]bool)}
}

func (r *raceTest) dial(ctx context.Context, a netip.Addr) (raceConn, error) {
	r.mu.Lock()
	r.started[a] = time.Since(r.begin)
	r.mu.Unlock()
	at := r.script[a]
	if at.hangs {
		<-ctx.Done()
		return raceConn{}, ctx.Err()
	}
	if at.after > 0 {
		// A connection may stand although nobody wants it any more.
		time.Sleep(at.after)
	}
	if at.err != nil {
		return raceConn{}, at.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[a] = true
	return raceConn{r, a}, nil
}

// stillOpen are the connections that nobody has closed.
func (r *raceTest) stillOpen() []netip.Addr {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var open []netip.Addr
	for a, is := range r.open {
		if is {
			open = append(open, a)
		}
	}
	return open
}

func (r *raceTest) startedAt(a netip.Addr) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.started[a]; ok {
		return at
	}
	return -1
}

func TestRace(t *testing.T) {
	const delay = 250 * time.Millisecond
	const never = time.Duration(-1)
	list := addrs("2001:db8::1", "192.0.2.1", "2001:db8::2")
	hole := attempt{hangs: true}
	late := func(d time.Duration) attempt { return attempt{after: d} }
	fails := func(d time.Duration, text string) attempt { return attempt{after: d, err: errors.New(text)} }
	for _, tc := range []struct {
		name     string
		script   [3]attempt
		winner   int // index, -1 for none
		takes    time.Duration
		err      string
		starts   [3]time.Duration
		canceled time.Duration // when the caller leaves, 0 for never
		deadline time.Duration // when the caller's time is up, 0 for never
	}{
		{name: "first at once", script: [3]attempt{late(0), hole, hole}, winner: 0, starts: [3]time.Duration{0, never, never}},
		{name: "first before the delay", script: [3]attempt{late(delay - 1), hole, hole}, winner: 0, takes: delay - 1, starts: [3]time.Duration{0, never, never}},
		{name: "first is a black hole", script: [3]attempt{hole, late(20 * time.Millisecond), hole}, winner: 1, takes: delay + 20*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "two black holes", script: [3]attempt{hole, hole, late(0)}, winner: 2, takes: 2 * delay, starts: [3]time.Duration{0, delay, 2 * delay}},
		{name: "slow first wins", script: [3]attempt{late(delay + 10*time.Millisecond), late(time.Second), hole}, winner: 0, takes: delay + 10*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "first fails", script: [3]attempt{fails(0, "one"), late(0), hole}, winner: 1, starts: [3]time.Duration{0, 0, never}},
		{name: "first fails late", script: [3]attempt{fails(delay+100*time.Millisecond, "one"), hole, late(0)}, winner: 2, takes: delay + 100*time.Millisecond, starts: [3]time.Duration{0, delay, delay + 100*time.Millisecond}},
		{name: "delay begins anew", script: [3]attempt{fails(200*time.Millisecond, "one"), hole, late(0)}, winner: 2, takes: 200*time.Millisecond + delay, starts: [3]time.Duration{0, 200 * time.Millisecond, 200*time.Millisecond + delay}},
		{name: "all fail", script: [3]attempt{fails(time.Millisecond, "one"), fails(0, "two"), fails(0, "three")}, winner: -1, takes: time.Millisecond, err: "one", starts: [3]time.Duration{0, time.Millisecond, time.Millisecond}},
		{name: "last fails first", script: [3]attempt{fails(time.Second, "one"), fails(time.Second, "two"), fails(0, "three")}, winner: -1, takes: delay + time.Second, err: "three", starts: [3]time.Duration{0, delay, 2 * delay}},
		{name: "two at once", script: [3]attempt{late(delay + 20*time.Millisecond), late(10 * time.Millisecond), hole}, winner: 1, takes: delay + 10*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "caller leaves", script: [3]attempt{hole, hole, hole}, winner: -1, takes: 300 * time.Millisecond, err: "context canceled", canceled: 300 * time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "caller leaves after a failure", script: [3]attempt{fails(0, "one"), hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "context canceled", canceled: 100 * time.Millisecond, starts: [3]time.Duration{0, 0, never}},
		{name: "no time", script: [3]attempt{hole, hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "context deadline exceeded", deadline: 100 * time.Millisecond, starts: [3]time.Duration{0, never, never}},
		{name: "no time after a failure", script: [3]attempt{fails(0, "one"), hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "one", deadline: 100 * time.Millisecond, starts: [3]time.Duration{0, 0, never}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := make(map[netip.Addr]attempt)
				for i, a := range list {
					script[a] = tc.script[i]
				}
				r := newRaceTest(t, script)
				ctx, cancel := context.WithCancel(t.Context())
				if tc.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tc.deadline)
				}
				defer cancel()
				if tc.canceled > 0 {
					time.AfterFunc(tc.canceled, cancel)
				}
				conn, err := race(ctx, candidatesOf(list...), nil, delay, r.dial)
				if took := time.Since(r.begin); took != tc.takes {
					t.Errorf("took %s, want %s", took, tc.takes)
				}
				switch {
				case tc.winner < 0:
					if err == nil || err.Error() != tc.err {
						t.Errorf("error %v, want %s", err, tc.err)
					}
				case err != nil:
					t.Error(err)
				case conn.addr != list[tc.winner]:
					t.Errorf("connected to %s", conn.addr)
				}
				for i, want := range tc.starts {
					if at := r.startedAt(list[i]); at != want {
						t.Errorf("%s was dialed at %s, want %s", list[i], at, want)
					}
				}
				time.Sleep(time.Minute) // losers come in and are closed
				var want []netip.Addr
				if tc.winner >= 0 {
					want = list[tc.winner : tc.winner+1]
				}
				if open := r.stillOpen(); !slices.Equal(open, want) {
					t.Errorf("open are %v, want %v", open, want)
				}
			})
		})
	}
}

// The race over real sockets leaves no goroutine and no connection behind.
func TestRaceClosesLosers(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1", "127.0.0.2", "127.0.0.3")}}).resolve, "allow 127.0.0.0/8")
	d.FallbackDelay = time.Nanosecond // all at once
	conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for host, ln := range listeners {
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		last, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for {
			accepted, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if accepted.RemoteAddr().String() == last.LocalAddr().String() {
				accepted.Close()
				break
			}
			if accepted.RemoteAddr().String() == conn.LocalAddr().String() {
				accepted.Close()
				continue
			}
			// Closed, not kept: a read ends.
			accepted.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := accepted.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a loser at %s is open: %v", host, err)
			}
			accepted.Close()
		}
		last.Close()
	}
}

// tlsOrigin serves TLS on 127.0.0.1, with a certificate for origin.test and
// that address. The pool trusts it.
func tlsOrigin(t *testing.T, change func(*tls.Config)) (uint16, *x509.CertPool) {
	t.Helper()
	return tlsOriginAt(t, change, "127.0.0.1")
}

func tlsOriginAt(t *testing.T, change func(*tls.Config), hosts ...string) (uint16, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, certTemplate(), certTemplate(), &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if change != nil {
		change(cfg)
	}
	return serveConnsAt(t, func(conn net.Conn) {
		tc := tls.Server(conn, cfg)
		if tc.Handshake() == nil {
			io.WriteString(tc, tc.ConnectionState().ServerName+"\n")
			io.Copy(io.Discard, tc)
		}
	}, hosts...), pool
}

// serveConns hands each connection to a port of 127.0.0.1 to serve, and closes
// it afterwards. At the end of the test it waits for them all.
func serveConns(t testing.TB, serve func(net.Conn)) uint16 {
	t.Helper()
	return serveConnsAt(t, serve, "127.0.0.1")
}

func serveConnsAt(t testing.TB, serve func(net.Conn), hosts ...string) uint16 {
	t.Helper()
	port, listeners := listenAt(t, hosts...)
	var wg sync.WaitGroup
	for _, ln := range listeners {
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer conn.Close()
					serve(conn)
				})
			}
		})
	}
	t.Cleanup(func() {
		for _, ln := range listeners {
			ln.Close()
		}
		wg.Wait()
	})
	return port
}

func TestDialTLS(t *testing.T) {
	noLeaks(t)
	port, trusted := tlsOrigin(t, nil)
	for _, dest := range []target.Target{
		{Host: "origin.test", Port: port},
		fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port)),
	} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
		d.TLSConfig = &tls.Config{RootCAs: trusted}
		conn, err := d.Dial(t.Context(), dest, true)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		wantName := dest.Host
		if dest.IsAddr() {
			wantName = "" // RFC 6066 §3: literal addresses are not sent
		}
		if err != nil || string(buf[:n]) != wantName+"\n" {
			t.Errorf("server name %q, %v", buf[:n], err)
		}
		if d.TLSConfig.ServerName != "" {
			t.Error("the shared TLS configuration was changed")
		}
		conn.Close()
	}
}

// silent takes what comes and says nothing.
func silent(conn net.Conn) { io.Copy(io.Discard, conn) }

func TestDialTLSErrors(t *testing.T) {
	noLeaks(t)
	good, trusted := tlsOrigin(t, nil)
	trust := &tls.Config{RootCAs: trusted}
	tls13, _ := tlsOrigin(t, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
	wantsCert, wantsTrusted := tlsOrigin(t, func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
		c.MaxVersion = tls.VersionTLS12 // in TLS 1.3 the handshake ends before the refusal
	})
	clear := serveConns(t, func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		silent(conn)
	})
	hangsUp := serveConns(t, func(conn net.Conn) { conn.Read(make([]byte, 1)) })
	quiet := serveConns(t, silent)
	for _, tc := range []struct {
		name    string
		host    string
		port    uint16
		config  *tls.Config
		timeout time.Duration
		want    *failure.Failure
	}{
		{"unknown authority", "origin.test", good, new(tls.Config), 0, failure.Certificate},
		{"another name", "other.test", good, trust, 0, failure.Certificate},
		{"plain text", "origin.test", clear, trust, 0, failure.TLS},
		{"end of connection", "origin.test", hangsUp, trust, 0, failure.TLS},
		{"alert about versions", "origin.test", tls13, &tls.Config{MaxVersion: tls.VersionTLS12}, 0, failure.TLSAlert},
		{"alert about a certificate", "origin.test", wantsCert, &tls.Config{RootCAs: wantsTrusted}, 0, failure.TLSAlert},
		{"timeout", "origin.test", quiet, trust, 20 * time.Millisecond, failure.DialTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
			d.TLSConfig = tc.config
			if tc.timeout > 0 {
				d.TLSTimeout = tc.timeout
			}
			conn, err := d.Dial(t.Context(), target.Target{Host: tc.host, Port: tc.port}, true)
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			if f := failure.Of(err); f != tc.want {
				t.Errorf("%v is %d %s, want %d %s", err, f.Status, f.Type, tc.want.Status, tc.want.Type)
			}
			if !strings.HasPrefix(err.Error(), "TLS handshake: ") {
				t.Errorf("%v", err)
			}
		})
	}
}

// upstream.md §1, "failure before any byte was sent": where TLS fails at one address
// of a destination, another one is tried, and the next dial begins there. Where it
// fails at all of them, that says nothing about any address.
func TestDialTLSOtherAddress(t *testing.T) {
	noLeaks(t)
	_, unrelated := tlsOrigin(t, nil)
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"}
	for _, tc := range []struct {
		name  string
		fails func(net.Conn)
	}{
		{"end of connection", func(c net.Conn) { c.Close() }},
		{"alert", func(net.Conn) {}},
		{"certificate", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var healthy string // guarded by mu
			var asked []string // guarded by mu: the addresses, in order
			port, trusted := tlsOriginAt(t, func(c *tls.Config) {
				c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					host, _, _ := net.SplitHostPort(hello.Conn.LocalAddr().String())
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, host)
					if host == healthy || tc.fails == nil {
						return nil, nil
					}
					tc.fails(hello.Conn)
					return nil, errors.New("not here")
				}
			}, hosts...)
			resolve := (&answers{list: [][]netip.Addr{addrs(hosts...)}}).resolve
			d := newDialer(t, resolve, "deny 127.0.0.2/32", "allow 127.0.0.0/8")
			d.TLSConfig = &tls.Config{RootCAs: trusted}
			try := func(at string, want ...string) {
				t.Helper()
				mu.Lock()
				healthy, asked = at, nil
				mu.Unlock()
				conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, true)
				switch {
				case err == nil:
					conn.Close()
					if at == "" {
						t.Error("connected")
					}
				case at != "" || !strings.HasPrefix(err.Error(), "TLS handshake: "):
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(asked, want) {
					t.Errorf("asked %v, want %v", asked, want)
				}
			}
			if tc.fails != nil {
				try("127.0.0.3", "127.0.0.1", "127.0.0.3")
				try("127.0.0.3", "127.0.0.3")
				d.forget(allAtOnce(resolve)) // the address that failed as well
			} else {
				d.TLSConfig.RootCAs = unrelated
			}
			for range 2 {
				try("", "127.0.0.1", "127.0.0.3", "127.0.0.4") // and no more of them
			}
		})
	}
}

// A client that leaves during the handshake is nobody's failure.
func TestDialTLSCanceled(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	port := serveConns(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1)) // the handshake has begun
		cancel()
		silent(conn)
	})
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	_, err := d.Dial(ctx, fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port)), true)
	if err == nil || failure.Of(err) != failure.Canceled {
		t.Errorf("%v", err)
	}
}
