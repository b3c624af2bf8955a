package self

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestIsSelf(t *testing.T) {
	interfaces := []string{"127.0.0.1/8", "::1/128", "192.0.2.10/24", "2001:db8::10/64", "fe80::1/64"}
	admin := HostPort{"admin.internal", 2019}
	admin6 := HostPort{"fd00::5", 2019}
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
			s := fake([]string{tc.listener}, interfaces, admin, admin6)
			for _, addr := range tc.self {
				if a := netip.MustParseAddrPort(addr); !s.IsSelf(a.Addr(), a.Port()) {
					t.Errorf("%s is not recognised", addr)
				}
			}
			for _, addr := range tc.others {
				if a := netip.MustParseAddrPort(addr); s.IsSelf(a.Addr(), a.Port()) {
					t.Errorf("%s is taken for our own", addr)
				}
			}
		})
	}
}

// Addresses of interfaces are listed again after a while, not for each look.
func TestLocalAddressesAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fake([]string{"tcp/:80"}, nil)
		lists, addr := 0, "192.0.2.10/24"
		s.listAll = func() ([]net.Addr, error) {
			lists++
			ip, ipNet, _ := net.ParseCIDR(addr)
			return []net.Addr{&net.IPNet{IP: ip, Mask: ipNet.Mask}}, nil
		}
		first, second := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20")
		for range 5 {
			if !s.IsSelf(first, 80) || s.IsSelf(second, 80) {
				t.Error("the first address is not recognised, or the second is")
			}
		}
		if lists != 1 {
			t.Errorf("interfaces were listed %d times", lists)
		}
		addr = "192.0.2.20/24"
		time.Sleep(localAddrsTTL)
		if s.IsSelf(first, 80) || !s.IsSelf(second, 80) {
			t.Error("the change of address was not seen")
		}
		if lists != 2 {
			t.Errorf("interfaces were listed %d times", lists)
		}
	})
}

// Where interfaces cannot be listed, loopback is known all the same.
func TestIsSelfWithoutInterfaces(t *testing.T) {
	s := fake([]string{"tcp/:80"}, nil)
	s.listAll = func() ([]net.Addr, error) { return nil, errors.New("not permitted") }
	if !s.IsSelf(netip.MustParseAddr("127.0.0.1"), 80) || !s.IsSelf(netip.MustParseAddr("::1"), 80) {
		t.Error("loopback is not recognised")
	}
	if s.IsSelf(netip.MustParseAddr("192.0.2.10"), 80) {
		t.Error("an unknown address is taken for our own")
	}
}

// An address that is not ours costs one look-up of a listener for each network,
// and not one for every way in which a listener may be bound.
func TestIsSelfLooksNothingUpInVain(t *testing.T) {
	s := fake([]string{"tcp/:443"}, nil)
	looked := 0
	usage := s.usage
	s.usage = func(network, addr string) int {
		looked++
		return usage(network, addr)
	}
	if s.IsSelf(netip.MustParseAddr("192.0.2.10"), 443) {
		t.Error("taken for our own")
	}
	if looked != 3 {
		t.Errorf("%d look-ups", looked)
	}
}
