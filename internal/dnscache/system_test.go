package dnscache

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// asking is a system resolver that asks a server of the test's.
func asking(s *dnstest.Server) System {
	return System{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", s.Addr)
	}}}
}

// Names are looked up as absolute: search domains would let a client reach
// names that it did not say.
func TestSystemIsAbsolute(t *testing.T) {
	s := dnstest.Start(t)
	for _, name := range []string{"intranet", "origin.test"} {
		before := s.Asked("udp")
		r, err := asking(s).Lookup(t.Context(), name, IPv4)
		if err != nil || len(r.Addrs) > 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		all, exact := s.Asked("udp")-before, s.Asked("udp A "+name)
		if all != exact || exact == 0 {
			t.Errorf("%s: %d of %d questions were for it", name, exact, all)
		}
	}
}

func TestSystemAnswers(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("both.test", dnstest.Records{Addrs: addrs("192.0.2.1", "2001:db8::1"), TTL: 3600})
	s.Set("four.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 3600})
	s.Set("broken.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
	for _, tc := range []struct {
		name string
		f    Family
		want []string
		ok   bool
	}{
		{"both.test", IPv4, []string{"192.0.2.1"}, true},
		{"both.test", IPv6, []string{"2001:db8::1"}, true},
		{"four.test", IPv6, nil, true},
		{"nowhere.test", IPv4, nil, true},
		{"broken.test", IPv4, nil, false},
	} {
		r, err := asking(s).Lookup(t.Context(), tc.name, tc.f)
		got := usable(r.Addrs)
		if (err == nil) != tc.ok || !slices.Equal(got, addrs(tc.want...)) || tc.ok && r.TTL != 30*time.Second {
			t.Errorf("%s %s: %+v, %v", tc.name, tc.f, r, err)
		}
	}
}
