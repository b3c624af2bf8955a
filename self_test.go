package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// fakeSelf is a check for a process that has the given listeners, each as
// "network/address", on a machine with the given interface addresses.
func fakeSelf(listeners, interfaces []string, admin ...hostPort) *selfCheck {
	s := newSelfCheck(admin)
	s.sockets, s.dials = nil, new(ownDials)
	s.usage = func(network, addr string) int {
		for _, l := range listeners {
			if l == network+"/"+addr {
				return 1
			}
		}
		return 0
	}
	s.listAll = func() ([]net.Addr, error) {
		var addrs []net.Addr
		for _, cidr := range interfaces {
			ip, ipNet, err := net.ParseCIDR(cidr)
			if err != nil {
				return nil, err
			}
			addrs = append(addrs, &net.IPNet{IP: ip, Mask: ipNet.Mask})
		}
		return addrs, nil
	}
	return s
}

func TestIsSelf(t *testing.T) {
	interfaces := []string{"127.0.0.1/8", "::1/128", "192.0.2.10/24", "2001:db8::10/64", "fe80::1/64"}
	admin := hostPort{"admin.internal", 2019}
	admin6 := hostPort{"fd00::5", 2019}
	for _, tc := range []struct {
		listener string
		self     []string
		others   []string
	}{
		{
			"tcp/192.0.2.10:80",
			[]string{"192.0.2.10:80"},
			[]string{"192.0.2.10:81", "192.0.2.11:80", "127.0.0.1:80", "[2001:db8::10]:80", "0.0.0.0:80"},
		},
		{
			"tcp/127.0.0.1:80",
			[]string{"127.0.0.1:80", "0.0.0.0:80", "[::]:80"},
			[]string{"127.0.0.2:80", "192.0.2.10:80", "[::1]:80"},
		},
		{
			"tcp/[::1]:80",
			[]string{"[::1]:80", "[::]:80", "0.0.0.0:80"},
			[]string{"127.0.0.1:80", "[2001:db8::10]:80"},
		},
		{
			"tcp/:80",
			[]string{"127.0.0.1:80", "127.8.9.10:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "192.0.2.10:80", "[2001:db8::10]:80", "[fe80::1]:80", "[fe80::1%eth0]:80"},
			[]string{"192.0.2.11:80", "[2001:db8::11]:80", "127.0.0.1:8080"},
		},
		{
			"tcp/0.0.0.0:80",
			[]string{"127.0.0.1:80", "192.0.2.10:80", "0.0.0.0:80"},
			[]string{"192.0.2.11:80", "198.51.100.1:80"},
		},
		{
			"tcp/[::]:80",
			[]string{"127.0.0.1:80", "[::1]:80", "192.0.2.10:80", "[2001:db8::10]:80"},
			[]string{"[2001:db8::11]:80"},
		},
		{
			"tcp/localhost:80",
			[]string{"127.0.0.1:80", "[::1]:80", "192.0.2.10:80"},
			[]string{"192.0.2.11:80", "127.0.0.1:81"},
		},
		{
			"tcp/admin.internal:2019",
			[]string{"127.0.0.1:2019", "192.0.2.10:2019", "[2001:db8::10]:2019"},
			[]string{"192.0.2.11:2019", "127.0.0.1:80"},
		},
		{
			"tcp/[fd00::5]:2019",
			[]string{"127.0.0.1:2019", "[fd00::5]:2019"},
			[]string{"192.0.2.11:2019"},
		},
		{
			"tcp/other.internal:2019", // a name that nobody has told us
			nil,
			[]string{"127.0.0.1:2019", "192.0.2.10:2019"},
		},
		// `bind tcp4/…` and `bind tcp6/…`.
		{"tcp4/0.0.0.0:80", []string{"127.0.0.1:80", "192.0.2.10:80"}, []string{"192.0.2.11:80"}},
		{"tcp4/127.0.0.1:80", []string{"127.0.0.1:80"}, []string{"192.0.2.10:80"}},
		{"tcp6/[::1]:80", []string{"[::1]:80"}, []string{"127.0.0.1:80"}},
		{"udp/:443", nil, []string{"127.0.0.1:443"}}, // QUIC alone takes no TCP connection
		// A gateway or translator may lead to the address that one carries.
		{
			"tcp/192.0.2.10:80",
			[]string{"[::ffff:192.0.2.10]:80", "[64:ff9b::192.0.2.10]:80", "[64:ff9b:1::192.0.2.10]:80", "[2002:c000:20a::1]:80", "[2001:db8::5efe:192.0.2.10]:80"},
			[]string{"[64:ff9b::192.0.2.11]:80", "[64:ff9b::192.0.2.10]:81", "[2002:c000:20b::1]:80"},
		},
		{"tcp/:80", []string{"[64:ff9b::192.0.2.10]:80", "[2002:c000:20a::1]:80"}, []string{"[64:ff9b::192.0.2.11]:80"}},
	} {
		t.Run(tc.listener, func(t *testing.T) {
			s := fakeSelf([]string{tc.listener}, interfaces, admin, admin6)
			for _, addr := range tc.self {
				if a := netip.MustParseAddrPort(addr); !s.isSelf(a.Addr(), a.Port()) {
					t.Errorf("%s is not recognised", addr)
				}
			}
			for _, addr := range tc.others {
				if a := netip.MustParseAddrPort(addr); s.isSelf(a.Addr(), a.Port()) {
					t.Errorf("%s is taken for our own", addr)
				}
			}
		})
	}
}

// Addresses of interfaces are listed again after a while, not for each look.
func TestLocalAddressesAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeSelf([]string{"tcp/:80"}, nil)
		lists, addr := 0, "192.0.2.10/24"
		s.listAll = func() ([]net.Addr, error) {
			lists++
			ip, ipNet, _ := net.ParseCIDR(addr)
			return []net.Addr{&net.IPNet{IP: ip, Mask: ipNet.Mask}}, nil
		}
		first, second := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20")
		for range 5 {
			if !s.isSelf(first, 80) || s.isSelf(second, 80) {
				t.Error("the first address is not recognised, or the second is")
			}
		}
		if lists != 1 {
			t.Errorf("interfaces were listed %d times", lists)
		}
		addr = "192.0.2.20/24"
		time.Sleep(localAddrsTTL)
		if s.isSelf(first, 80) || !s.isSelf(second, 80) {
			t.Error("the change of address was not seen")
		}
		if lists != 2 {
			t.Errorf("interfaces were listed %d times", lists)
		}
	})
}

// Where interfaces cannot be listed, loopback is known all the same.
func TestIsSelfWithoutInterfaces(t *testing.T) {
	s := fakeSelf([]string{"tcp/:80"}, nil)
	s.listAll = func() ([]net.Addr, error) { return nil, errors.New("not permitted") }
	if !s.isSelf(netip.MustParseAddr("127.0.0.1"), 80) || !s.isSelf(netip.MustParseAddr("::1"), 80) {
		t.Error("loopback is not recognised")
	}
	if s.isSelf(netip.MustParseAddr("192.0.2.10"), 80) {
		t.Error("an unknown address is taken for our own")
	}
}

// An address that is not ours costs one look-up of a listener for each network,
// and not one for every way in which a listener may be bound.
func TestIsSelfLooksNothingUpInVain(t *testing.T) {
	s := fakeSelf([]string{"tcp/:443"}, nil)
	looked := 0
	usage := s.usage
	s.usage = func(network, addr string) int {
		looked++
		return usage(network, addr)
	}
	if s.isSelf(netip.MustParseAddr("192.0.2.10"), 443) {
		t.Error("taken for our own")
	}
	if looked != 3 {
		t.Errorf("%d look-ups", looked)
	}
}

// Caddy names its listeners as isSelf expects it to.
func TestIsSelfWithListenersOfCaddy(t *testing.T) {
	for _, tc := range []struct{ listen, reaches string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"tcp4/127.0.0.1:0", "127.0.0.1"},
		{"localhost:0", "127.0.0.1"},
		{":0", "127.0.0.1"},
		{"0.0.0.0:0", "127.0.0.1"},
		{"0.0.0.0:0", "0.0.0.0"},
		{"[::]:0", "127.0.0.1"},
	} {
		t.Run(tc.listen+" "+tc.reaches, func(t *testing.T) {
			na, err := caddy.ParseNetworkAddress(tc.listen)
			if err != nil {
				t.Fatal(err)
			}
			port := freePort(t)
			na.StartPort, na.EndPort = uint(port), uint(port)
			s := newSelfCheck(nil)
			reaches := netip.MustParseAddr(tc.reaches)
			if s.isSelf(reaches, port) {
				t.Error("recognised before anything listens")
			}
			ln, err := na.Listen(t.Context(), 0, net.ListenConfig{})
			if err != nil {
				t.Skip(err)
			}
			if !s.isSelf(reaches, port) {
				t.Error("not recognised")
			}
			if err := ln.(net.Listener).Close(); err != nil {
				t.Error(err)
			}
			if s.isSelf(reaches, port) {
				t.Error("recognised after the listener was closed")
			}
		})
	}
}

// freePort is a TCP port on which nothing listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	port, err := freeport.Get()
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// Listeners of all sites are known, however their addresses are written: other
// spellings of an IP address, and names.
func TestIsSelf_SpellingsOfSites(t *testing.T) {
	for _, tc := range []struct{ host, reaches string }{
		{"[0:0:0:0:0:0:0:1]", "::1"},
		{"[::0001]", "::1"},
		{"[::ffff:127.0.0.1]", "127.0.0.1"},
		{"[::FFFF:127.0.0.1]", "127.0.0.1"},
		{"[::0]", "127.0.0.1"},
		{"[0:0::0]", "::1"},
		{"LOCALHOST", "127.0.0.1"},
		{"{env.EGRESS_TEST_BIND}", "::1"},
	} {
		t.Run(tc.host, func(t *testing.T) {
			t.Setenv("EGRESS_TEST_BIND", "[0:0:0:0:0:0:0:1]")
			port := freePort(t)
			config := fmt.Sprintf(`{"apps":{"http":{"servers":{
				"proxy":{"listen":["127.0.0.1:8080"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"egress"}]}]},
				"site":{"listen":["%s:%d-%d"],"automatic_https":{"disable":true}}}}}}`, tc.host, port, port+1)
			found, cleanUp, err := provisionDry([]byte(config))
			if err != nil {
				t.Fatal(err)
			}
			defer cleanUp()
			h, err := found.find("")
			if err != nil {
				t.Fatal(err)
			}
			self, reaches := h.dialer.self, netip.MustParseAddr(tc.reaches)
			if self.isSelf(reaches, port) {
				t.Error("recognised before anything listens")
			}
			na, err := caddy.ParseNetworkAddress(fmt.Sprintf("%s:%d", caddy.NewReplacer().ReplaceAll(tc.host, ""), port))
			if err != nil {
				t.Fatal(err)
			}
			ln, err := na.Listen(t.Context(), 0, net.ListenConfig{})
			if err != nil {
				t.Skip(err)
			}
			defer ln.(net.Listener).Close()
			if !self.isSelf(reaches, port) {
				t.Error("not recognised")
			}
			if self.isSelf(reaches, port+1) || self.isSelf(netip.MustParseAddr("192.0.2.77"), port) {
				t.Error("something else is taken for our own")
			}
		})
	}
}
