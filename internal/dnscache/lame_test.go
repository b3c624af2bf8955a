package dnscache

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// A server that knows nothing of a name, and does not find out, cannot tell: the next one is
// asked. One that says that there is nothing is believed.
func TestClientLameAnswers(t *testing.T) {
	noLeaks(t)
	referral := &dns.NS{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 60}, Ns: "a.root-servers.net."}
	nothing := &dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.test.", Mbox: "mail.test.", Minttl: 7}
	for name, tc := range map[string]struct {
		change   func(m *dns.Msg)
		believed bool
	}{
		"referral":                        {func(m *dns.Msg) { m.Ns = []dns.RR{referral} }, false},
		"empty":                           {func(*dns.Msg) {}, false},
		"alias alone":                     {func(m *dns.Msg) { m.Answer = m.Answer[:1] }, false},
		"truncated over TCP":              {func(m *dns.Msg) { m.Truncated, m.RecursionAvailable = true, true }, false},
		"recursive and empty":             {func(m *dns.Msg) { m.RecursionAvailable = true }, true},
		"authoritative and empty":         {func(m *dns.Msg) { m.Authoritative = true }, true},
		"with a SOA":                      {func(m *dns.Msg) { m.Ns = []dns.RR{nothing} }, true},
		"that the name does not exist":    {func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }, true},
		"recursive and an alias alone":    {func(m *dns.Msg) { m.RecursionAvailable, m.Answer = true, m.Answer[:1] }, true},
		"not recursive, with the address": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := dnstest.Start(t), dnstest.Start(t)
			second.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
			first.Set("real.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
			first.Set("origin.test", dnstest.Records{Alias: "real.test", TTL: 60, Instead: func(_, m *dns.Msg) []*dns.Msg {
				m.RecursionAvailable = false
				if tc.change == nil {
					return []*dns.Msg{m}
				}
				if name != "alias alone" && name != "recursive and an alias alone" {
					m.Answer = nil
				}
				tc.change(m)
				return []*dns.Msg{m}
			}})
			c := newClient(t, nil, first.Addr, second.Addr)
			r, err := c.Lookup(t.Context(), "origin.test", IPv4)
			if err != nil {
				t.Fatal(err)
			}
			if tc.change != nil && tc.believed != (len(r.Addrs) == 0) || tc.believed != (second.Asked("origin.test") == 0) {
				t.Errorf("addresses %v, the second server was asked %d times", r.Addrs, second.Asked("origin.test"))
			}
			if n := first.Asked("udp"); n != 1 {
				t.Errorf("the first server was asked %d times", n)
			}
			if s := &c.servers[0].standing; !tc.believed && len(s.known) != 0 {
				t.Error("the question is one that the server has answered")
			}
		})
	}
}

// Where there is no other server, the addresses of before are used, as with any server
// that cannot tell.
func TestClientLameAnswers_Stale(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	c := New(Config{Backend: newClient(t, nil, s.Addr)})
	ask(c, "origin.test", IPv4)
	sh := c.shardOf("origin.test")
	sh.mu.Lock()
	r := &sh.names["origin.test"].records[IPv4]
	over := *r.Load()
	over.expires = time.Now()
	r.Store(&over)
	sh.mu.Unlock()
	s.Set("origin.test", dnstest.Records{Instead: func(_, m *dns.Msg) []*dns.Msg {
		m.RecursionAvailable = false
		return []*dns.Msg{m}
	}})
	if a, _ := ask(c, "origin.test", IPv4); !a.Stale || !slices.Equal(a.Addrs, addrs("192.0.2.1")) {
		t.Errorf("%+v", a)
	}
}

// That there are more addresses than those which are used is told: of an answer with too
// many, of one that was cut off, and of the hosts file.
func TestAnswersWithMore(t *testing.T) {
	var many []string
	for i := range MaxAddrs {
		many = append(many, fmt.Sprint("192.0.2.", i+1))
	}
	for _, tc := range []struct {
		reply Reply
		more  bool
	}{
		{Reply{Addrs: addrs(many...), TTL: time.Minute}, false},
		{Reply{Addrs: addrs(append(slices.Clone(many[1:]), "192.0.2.1", "192.0.2.1")...), TTL: time.Minute}, false}, // one of them twice
		{Reply{Addrs: addrs(append(slices.Clone(many), "10.0.0.1")...), TTL: time.Minute}, true},
		{Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute, Partial: true}, true},
	} {
		b := new(script)
		b.set("origin.test", tc.reply)
		c := New(Config{Backend: b, Static: map[string][]netip.Addr{"fixed.test": tc.reply.Addrs}})
		if a, _ := ask(c, "origin.test", IPv4); a.More != tc.more || len(a.Addrs) > MaxAddrs {
			t.Errorf("%d addresses: more %t", len(tc.reply.Addrs), a.More)
		}
		if a, _ := ask(c, "fixed.test", IPv4); !tc.reply.Partial && a.More != tc.more {
			t.Errorf("%d fixed addresses: more %t", len(tc.reply.Addrs), a.More)
		}
	}
}

// An answer that is cut off over TCP as well, and has addresses, is one with more.
func TestClientCutOffOverTCP(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Instead: func(_, m *dns.Msg) []*dns.Msg {
		m.Truncated = true
		return []*dns.Msg{m}
	}})
	r, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "origin.test", IPv4)
	if err != nil || !r.Partial || len(r.Addrs) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
