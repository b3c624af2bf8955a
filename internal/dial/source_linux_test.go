package dial

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"github.com/caddy-egress/egress/internal/testkit/netns"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/self"
)

// One local address has all its ports for each destination, not for all of them
// together (IP_BIND_ADDRESS_NO_PORT), in both families.
func TestLocalAddressKeepsPorts(t *testing.T) {
	if !netns.In(t) {
		return
	}
	const ports = 8
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40007"), 0o600); err != nil {
		netns.Unavailable(t, err.Error())
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		d := newDialer(t, nil, "allow 127.0.0.0/8 ::1")
		d.Sources = mustSources(t, local{LocalAddresses: []string{host}})
		for to := range 3 {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(1000+to)))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			for n := range ports {
				conn, err := d.Dial(t.Context(), fixture.Target(t, ln.Addr().String()), false)
				if err != nil {
					t.Fatalf("connection %d to destination %d from %s: %v", n+1, to+1, host, err)
				}
				defer conn.Close()
			}
			if _, err := d.Dial(t.Context(), fixture.Target(t, ln.Addr().String()), false); failure.Of(err) != failure.Limit {
				t.Errorf("one connection too many to %s: %v", ln.Addr(), err)
			}
		}
	}
}

// An own listener is not reached at an address that is this machine's by a route alone,
// as behind load balancers. Sockets of others there are, and own ones that a rule opens.
func TestDial_OwnListenerLocalByRoute(t *testing.T) {
	if !netns.In(t, "route add local 198.51.100.0/24 dev lo", "-6 route add local 2001:db8::/64 dev lo") {
		return
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	for addr, want := range map[string]bool{"198.51.100.7": true, "2001:db8::7": true, "127.0.0.1": true, "::1": true, "192.0.2.1": false, "2001:db8:1::1": false} {
		if self.LeadsHere(netip.MustParseAddr(addr)) != want {
			t.Errorf("leads here: %s: %t", addr, !want)
		}
	}
	for _, bound := range []local{{}, {LocalAddresses: []string{"127.0.0.1", "::1"}}} {
		for _, host := range []string{"198.51.100.7", "2001:db8::7"} {
			addr := net.JoinHostPort(host, port)
			d := newDialer(t, nil, "allow 198.51.100.0/24 2001:db8::/64")
			d.Sources = mustSources(t, bound)
			d.Self = self.New(self.Config{Usage: caddy.ListenerUsage, Active: func() <-chan struct{} { return nil }, Sockets: listening.Scan})
			dial := func() error {
				conn, err := d.Dial(t.Context(), fixture.Target(t, addr), false)
				if err == nil {
					conn.Close()
				}
				return err
			}
			if err := dial(); failure.Of(err) != failure.Loop {
				t.Errorf("%s from %v: %v, want a loop", addr, bound.LocalAddresses, err)
			}
			d.Access = fixture.FixedRules(fixture.AccessList(t, "allow "+addr))
			if err := dial(); err != nil {
				t.Errorf("%s, which a rule opens: %v", addr, err)
			}
			d.Access = fixture.FixedRules(fixture.AccessList(t, "allow 198.51.100.0/24 2001:db8::/64"))
			d.Self = self.New(self.Config{ // the listener is another's
				Usage: caddy.ListenerUsage, Active: func() <-chan struct{} { return nil },
				Sockets: func() ([]listening.Socket, bool) { return nil, true },
			})
			if err := dial(); err != nil {
				t.Errorf("%s of another process: %v", addr, err)
			}
		}
	}
}

// Connections leave by the configured interface, and one that does not exist is
// an error of the configuration.
func TestInterface(t *testing.T) {
	if !netns.In(t, "link add eth9 type veth peer name eth10", "addr add 192.0.2.1/24 dev eth9", "link set eth9 up") {
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dest := fixture.Target(t, ln.Addr().String())
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	d.Sources = mustSources(t, local{Interface: "lo"})
	conn, err := d.Dial(t.Context(), dest, false)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	d.Timeout = 100 * time.Millisecond // nobody is there
	d.Sources = mustSources(t, local{Interface: "eth9"})
	if conn, err := d.Dial(t.Context(), dest, false); err == nil {
		conn.Close()
		t.Error("loopback was reached by another interface")
	}
	d.Sources = mustSources(t, local{Interface: "eth8"})
	_, err = d.Dial(t.Context(), dest, false)
	if want := "by the configured network interface: interface 'eth8': "; failure.Of(err) != failure.Interface || !strings.Contains(err.Error(), want) {
		t.Errorf("an interface that does not exist: %v, want %q in it", err, want)
	}
}

// Scenario 10 on a machine with both families, of which IPv6 leads nowhere: to a
// neighbour that is not there. IPv4 starts 250 ms later and wins.
func TestBlackHoleInNamespace(t *testing.T) {
	if !netns.In(t,
		"link add hole type veth peer name bottom", "link set hole up", "link set bottom up",
		"-6 addr add 2001:db8:1::1/64 dev hole nodad", "-6 route add 2001:db8:2::/64 dev hole",
		"-6 neigh add 2001:db8:2::2 lladdr 02:00:00:00:00:01 dev hole",
		"addr add 192.0.2.1/32 dev lo",
	) {
		return
	}
	ln, err := net.Listen("tcp", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dest := fixture.Target(t, ln.Addr().String())
	dest.Host, dest.Addr = "origin.test", netip.Addr{}
	d := newDialer(t, nil, "allow 192.0.2.1 2001:db8:2::/64")
	d.FallbackDelay = 250 * time.Millisecond
	d.forget(split{addrs("192.0.2.1"), addrs("2001:db8:2::2")})
	for i, atLeast := range []time.Duration{d.FallbackDelay, 0} {
		begin := time.Now()
		conn, err := d.Dial(t.Context(), dest, false)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < atLeast || RemoteAddr(conn) != netip.MustParseAddr("192.0.2.1") {
			t.Errorf("dial %d: %s after %s", i, RemoteAddr(conn), took)
		}
		conn.Close()
		if i == 0 { // the attempt that lost is noted when it has ended
			lost := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:2::2"), dest.Port)
			for until := time.Now().Add(10 * time.Second); !d.Names.failed.Has(lost); time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatal("the attempt that lost is not noted")
				}
			}
		}
	}
}
