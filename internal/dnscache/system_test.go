package dnscache

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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
		got, _ := usable(r.Addrs)
		if (err == nil) != tc.ok || !slices.Equal(got, addrs(tc.want...)) || tc.ok && r.TTL != 30*time.Second {
			t.Errorf("%s %s: %+v, %v", tc.name, tc.f, r, err)
		}
	}
}

// noDescriptor is what the system says to a process that has no descriptor left.
var noDescriptor = &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("socket", syscall.EMFILE)}

// A lack of descriptors is told as such, and is not remembered of the name.
func TestSystemOutOfDescriptors(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("one.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	var out atomic.Bool
	well := asking(s).Resolver.Dial
	c := New(Config{Backend: System{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if out.Load() {
			return nil, noDescriptor
		}
		return well(ctx, network, address)
	}}}})
	out.Store(true)
	if a, _ := ask(c, "one.test", IPv4); !errors.Is(a.Err, syscall.EMFILE) {
		t.Errorf("without a descriptor: %+v", a)
	}
	out.Store(false)
	if a, _ := ask(c, "one.test", IPv4); len(a.Addrs) != 1 {
		t.Errorf("with one again: %+v", a)
	}
}

// Where the addresses of a DNS server itself cannot be found, nothing is known of the
// names that it was to be asked for: not that they do not exist either.
func TestSystemTellsServers(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("broken.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
	out := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, noDescriptor }}
	for _, server := range []string{"tls://nowhere.test", "https://nowhere.test/dns-query", "https://broken.test/dns-query"} {
		for name, system := range map[string]System{"asked": asking(s), "out of descriptors": {Resolver: out}} {
			parsed, err := ParseServer(server)
			if err != nil {
				t.Fatal(err)
			}
			client, err := NewClient([]Server{parsed}, nil, nil, system)
			if err != nil {
				t.Fatal(err)
			}
			before := s.Asked("udp")
			a, _ := ask(New(Config{Backend: client}), "one.test", IPv4)
			if d, ok := errors.AsType[*net.DNSError](a.Err); !ok || d.IsNotFound || !d.IsTemporary || d.Name != "one.test" {
				t.Errorf("%s, %s: %+v", server, name, a.Err)
			}
			if got, want := errors.Is(a.Err, syscall.EMFILE), name != "asked"; got != want {
				t.Errorf("%s, %s: %v: a lack of descriptors: %t", server, name, a.Err, got)
			}
			if (s.Asked("udp") > before) != (name == "asked") {
				t.Errorf("%s, %s: the resolver of the system was asked for it: %t", server, name, s.Asked("udp") > before)
			}
			client.CloseIdle()
		}
	}
}

// The question that an error answers is the same for all who waited for it or get it
// while it is remembered, and another for the next.
func TestQuestionOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.fail(errors.New("nobody can tell"))
		c := New(Config{Backend: b, Static: map[string][]netip.Addr{"four.test": addrs("192.0.2.1")}})
		_, first := c.Lookup("one.test", IPv4)
		_, second := c.Lookup("one.test", IPv4)
		<-first.Done()
		<-second.Done()
		remembered, _ := c.Lookup("one.test", IPv4)
		q := first.Question()
		for what, err := range map[string]error{"first": first.Answer().Err, "second": second.Answer().Err, "remembered": remembered.Err, "late": q.Because(context.DeadlineExceeded)} {
			if q == nil || QuestionOf(err) != q {
				t.Errorf("%s: another question: %v", what, err)
			}
		}
		first.Leave()
		second.Leave()
		time.Sleep(FailureTTL)
		b.fail(nil)
		if a, _ := ask(c, "one.test", IPv4); QuestionOf(a.Err) == nil || QuestionOf(a.Err) == q {
			t.Errorf("asked again: %v", a.Err)
		}
		a, _ := ask(c, "four.test", IPv6)
		again, _ := ask(c, "four.test", IPv6)
		if q := QuestionOf(a.Err); q == nil || q != QuestionOf(again.Err) {
			t.Errorf("fixed: %v, %v", a.Err, again.Err)
		}
		if q := QuestionOf(errors.New("no answer")); q != nil {
			t.Error("a question for no answer")
		}
	})
}

// The name of a DNS server is looked up in the hosts file first, whatever the case it is
// written in: Go's resolver does not find localhost there, which it is asked for as absolute.
func TestServersInHostsFile(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("elsewhere.test", dnstest.Records{Addrs: addrs("192.0.2.9"), TTL: 60})
	system := asking(s)
	system.HostsFile = hostsFileWith(t, "192.0.2.1 single listed.test\n2001:db8::1 single\n")
	var dialed []string
	connect := connector(func(_ context.Context, _ string, to netip.AddrPort) (net.Conn, error) {
		dialed = append(dialed, to.String())
		return nil, errors.New("no")
	}, system)
	for host, want := range map[string][]string{
		"single":         {"192.0.2.1:853", "[2001:db8::1]:853"},
		"SINGLE.":        {"192.0.2.1:853", "[2001:db8::1]:853"},
		"listed.test":    {"192.0.2.1:853"},
		"elsewhere.test": {"192.0.2.9:853"},
		"192.0.2.7":      {"192.0.2.7:853"},
	} {
		dialed = nil
		if _, err := connect(t.Context(), Server{Host: host, Port: 853}, "tcp"); !slices.Equal(dialed, want) {
			t.Errorf("%s: dialed %v (%v), want %v", host, dialed, err, want)
		}
	}
}
