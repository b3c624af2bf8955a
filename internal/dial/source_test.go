package dial

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"unique"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// local are settings of sources.
type local struct {
	LocalAddresses              []string
	LocalAddressPick, Interface string
}

func mustSources(t *testing.T, l local) *Sources {
	t.Helper()
	if len(l.LocalAddresses) > 0 {
		l.LocalAddressPick = cmp.Or(l.LocalAddressPick, PickRoundRobin)
	}
	s, err := NewSources(l.LocalAddresses, l.LocalAddressPick, l.Interface, Orders["6"])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s Source) String() string {
	var out []string
	for _, a := range s.Addrs {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return strings.Join(append(out, s.device), " ")
}

func TestSourceRoundRobin(t *testing.T) {
	if s := (*Sources)(nil).Pick(t.Context()); s != (Source{}) {
		t.Errorf("without settings: %v", s)
	}
	if s := mustSources(t, local{}); s != nil {
		t.Errorf("without settings: %+v", s)
	}
	s := mustSources(t, local{LocalAddresses: []string{"192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"}})
	for i, want := range []string{"192.0.2.1 2001:db8::1 ", "192.0.2.2 2001:db8::1 ", "192.0.2.3 2001:db8::1 ", "192.0.2.1 2001:db8::1 "} {
		if got := s.Pick(t.Context()).String(); got != want {
			t.Errorf("connection %d from %s", i, got)
		}
	}
	if s.Slot("alice") != 0 {
		t.Error("connections are kept apart")
	}
}

// With user_hash a user keeps addresses, and users are spread over all pairs.
func TestSourceByUser(t *testing.T) {
	s := mustSources(t, local{
		LocalAddresses:   []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"},
		LocalAddressPick: "user_hash",
	})
	bySlot := make(map[uint32]string)
	byPair := make(map[string]int)
	for i := range 600 {
		slot := s.Slot(fmt.Sprintf("user%d", i))
		ctx := WithSlot(t.Context(), slot)
		got := s.Pick(ctx)
		if again := s.Pick(ctx); again != got {
			t.Fatalf("user %d: %v, then %v", i, got, again)
		}
		if kept := s.Pick(WithSlot(context.Background(), slot)); kept != got {
			t.Fatalf("user %d: %v, after the request %v", i, got, kept)
		}
		if before, ok := bySlot[slot]; slot == 0 || ok && before != got.String() {
			t.Fatalf("slot %d has %s and %s", slot, before, got)
		}
		bySlot[slot] = got.String()
		byPair[got.String()]++
	}
	if len(byPair) != 6 || len(bySlot) != 6 {
		t.Errorf("pairs %v, slots %v", byPair, bySlot)
	}
	for pair, n := range byPair {
		if n < 50 {
			t.Errorf("%s has %d of 600 users", pair, n)
		}
	}
}

// Families without a local address are not used.
func TestSourceFamilies(t *testing.T) {
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("192.0.2.1", "2001:db8::1")}}).resolve, "allow 0.0.0.0/0 ::/0")
	log := new(dialLog)
	d.DialAddr = log.dial
	for _, tc := range []struct {
		local  []string
		prefer string
		host   string
		want   string
	}{
		{[]string{"127.0.0.2"}, "6", "origin.test", "[192.0.2.1:80]"},
		{[]string{"::1"}, "4", "origin.test", "[[2001:db8::1]:80]"},
		{[]string{"::1", "127.0.0.2"}, "4", "origin.test", "[192.0.2.1:80 [2001:db8::1]:80]"},
		{[]string{"::1", "127.0.0.2"}, "4_only", "origin.test", "[192.0.2.1:80]"},
		{[]string{"::1"}, "6", "192.0.2.7", "[]"},
	} {
		d.Sources = mustSources(t, local{LocalAddresses: tc.local})
		d.Order = Orders[tc.prefer]
		d.Names.failed = new(FailedAddrs)
		// The test's resolver tells all when asked for IPv6.
		d.forget(split{addrs("192.0.2.1"), addrs("2001:db8::1")})
		dest := target.Target{Host: tc.host, Port: 80}
		if tc.host != "origin.test" {
			dest = fixture.Target(t, tc.host+":80")
		}
		_, err := d.Dial(t.Context(), dest, false)
		if got := fmt.Sprint(log.take()); got != tc.want {
			t.Errorf("%v, prefer %s: %s dialed", tc.local, tc.prefer, got)
		}
		if tc.want == "[]" && (failure.Of(err) != failure.Unroutable || !strings.Contains(err.Error(), "192.0.2.7 is IPv4, and only IPv6 is used")) {
			t.Errorf("%v: %v", tc.local, err)
		}
	}
}

// split are the addresses of every name, by family.
type split [2][]netip.Addr

func (s split) Lookup(_ context.Context, _ string, f dnscache.Family) (dnscache.Reply, error) {
	return dnscache.Reply{Addrs: s[f]}, nil
}

func (split) CloseIdle() {}

// The connection comes from the local address that was chosen.
func TestDialFromLocalAddress(t *testing.T) {
	noLeaks(t)
	port, _ := listenAt(t, "127.0.0.1")
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	d.Sources = mustSources(t, local{LocalAddresses: []string{"127.0.0.7", "127.0.0.8"}})
	dest := fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port))
	for _, want := range []string{"127.0.0.7", "127.0.0.8", "127.0.0.7"} {
		conn, err := d.Dial(t.Context(), dest, false)
		if err != nil {
			t.Skipf("no further loopback addresses here: %v", err)
		}
		if got := localAddr(conn); got != want {
			t.Errorf("from %s, want %s", got, want)
		}
		conn.Close()
	}
	own, err := d.Leaving("", []string{"127.0.0.9"}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := own.DialUpstream(t.Context(), "127.0.0.1", port)
	if err != nil {
		t.Fatal(err)
	}
	if got := localAddr(conn); got != "127.0.0.9" {
		t.Errorf("upstream from %s", got)
	}
	conn.Close()
}

func localAddr(c net.Conn) string {
	a := netip.MustParseAddrPort(c.LocalAddr().String())
	return a.Addr().String()
}

// A local address that the machine does not have is told from used-up ports and
// from a fault of the destination.
func TestDialFromForeignAddress(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1")
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	d.Sources = mustSources(t, local{LocalAddresses: []string{"192.0.2.1"}})
	_, err := d.Dial(t.Context(), fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port)), false)
	if err == nil || failure.Of(err) != failure.LocalAddress || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("%v", err)
	}
	if blame := failure.Of(err).Blame; blame != failure.BlameProxy {
		t.Errorf("charged to %s", blame)
	}
	if n := d.Names.failed.count.Load(); n != 0 {
		t.Error("the address counts as failed")
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("dialed %d times", n)
	}
}

// What leaves in the same way shares connections; any other setting makes another set.
func TestDialer_Identify(t *testing.T) {
	made := func(prefer, pick, device string, addresses ...string) unique.Handle[string] {
		t.Helper()
		d, err := (&Dialer{}).Leaving(prefer, addresses, pick, "")
		if err != nil {
			t.Fatal(err)
		}
		if device != "" { // which is possible on Linux only
			d.Sources.Device = device
		}
		return d.identify()
	}
	one := made("6", "", "", "192.0.2.1", "192.0.2.2")
	if one != made("6", "round_robin", "", "192.0.2.1", "192.0.2.2") {
		t.Error("the same settings are two sets")
	}
	for i, other := range []unique.Handle[string]{
		{},
		made("6", "user_hash", "", "192.0.2.1", "192.0.2.2"),
		made("6", "", "eth0", "192.0.2.1", "192.0.2.2"),
		made("6", "", "", "192.0.2.1"),
		made("6", "", ""),
		made("6", "", "", "192.0.2.1", "192.0.2.2", "::1"),
		made("4", "", "", "192.0.2.1", "192.0.2.2"),
		made("4_only", "", "", "192.0.2.1", "192.0.2.2"),
	} {
		if other == one {
			t.Errorf("setting %d is the same set", i)
		}
	}
}

// A DNS server on loopback is out of reach from anywhere else.
func TestSourceOnLoopback(t *testing.T) {
	s := mustSources(t, local{LocalAddresses: []string{"192.0.2.1", "::1"}})
	from := s.Pick(t.Context())
	from.device = "eth0"
	if got := from.onLoopback().String(); got != "::1 " {
		t.Errorf("from %q", got)
	}
}
