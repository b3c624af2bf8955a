package dnscache

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzReply: whatever bytes a server answers, only addresses count that belong to
// the question: of its family, and of its name or of one that CNAME records lead
// to from it.
func FuzzReply(f *testing.F) {
	const name = "a.test"
	q := question(name, IPv4)
	for _, records := range [][]string{
		{"a.test. 60 IN A 192.0.2.1", "a.test. 30 IN A 192.0.2.2"},
		{"a.test. 60 IN CNAME b.test.", "b.test. 5 IN A 192.0.2.1", "c.test. 1 IN A 192.0.2.9"},
		{"a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME a.test."},
		{"A.TEST. 4294967295 IN AAAA ::ffff:192.0.2.1", "a.test. 0 IN AAAA 2001:db8::1"},
		{"b.test. 60 IN A 192.0.2.1", "a.test. 60 CH A 192.0.2.3"},
		{},
	} {
		m := new(dns.Msg).SetReply(q)
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		if len(records) == 0 {
			soa, _ := dns.NewRR("test. 300 IN SOA ns.test. root.test. 1 2 3 4 60")
			m.Ns, m.Rcode = []dns.RR{soa}, dns.RcodeNameError
		}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, false)
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, six bool) {
		m := new(dns.Msg)
		if m.Unpack(raw) != nil {
			return
		}
		belongs(m, q)
		family := IPv4
		if six {
			family = IPv6
		}
		r := replyOf(m, name, family)
		if r.TTL < 0 || len(r.Addrs) > 0 && (r.TTL > MaxTTL || r.NoName) {
			t.Fatalf("%+v of %v", r, m)
		}
		owners := reachable(m, name+".")
		for _, a := range r.Addrs {
			if !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
				h := rr.Header()
				return h.Class == dns.ClassINET && owners[strings.ToLower(h.Name)] && carries(rr, a, six) &&
					r.TTL <= time.Duration(h.Ttl)*time.Second
			}) {
				t.Fatalf("%v does not belong to %s, or not for %s: %v", a, name, r.TTL, m)
			}
		}
	})
}

// reachable are the names that the CNAME records of m lead to, in whatever order.
func reachable(m *dns.Msg, from string) map[string]bool {
	found := map[string]bool{from: true}
	for range m.Answer {
		for _, rr := range m.Answer {
			if c, ok := rr.(*dns.CNAME); ok && found[strings.ToLower(c.Hdr.Name)] {
				found[strings.ToLower(c.Target)] = true
			}
		}
	}
	return found
}

func carries(rr dns.RR, a netip.Addr, six bool) bool {
	switch rr := rr.(type) {
	case *dns.A:
		return !six && rr.A.String() == a.String()
	case *dns.AAAA:
		return six && slices.Equal(rr.AAAA, a.AsSlice())
	}
	return false
}

// FuzzHostsFile holds the reading of a hosts file against one that knows lines
// only by their parts, and the parsing of servers to what they say of themselves.
func FuzzHostsFile(f *testing.F) {
	for _, s := range []string{
		"127.0.0.1 localhost\n::1 localhost ip6-localhost # and so on\n", "192.0.2.1\tA.test. b.test\r\n192.0.2.1 a.test",
		"# 192.0.2.1 x\n\n nonsense x\n192.0.2.1\n", "fe80::1%lo0 link\n::ffff:192.0.2.1 mapped\n", "1.2.3.4 \x00 . \xff\n",
		"udp://192.0.2.1:53", "tls://[2001:db8::1]:853#dns.test", "https://dns.test/dns-query?a#b", "https://[::1", "tcp://1.2.3.4:0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, _, _ := parseHosts(strings.NewReader(text))
		for name, known := range got {
			for family := range families {
				for _, a := range known[family].Addrs {
					if FamilyOf(a) != family || a.Is4In6() || !hostsSay(text, name, a) {
						t.Fatalf("%q has %v as %s of %q", text, a, family, name)
					}
				}
				if (len(known[family].Addrs) == 0) != (known[family].Err != nil) {
					t.Fatalf("%q: %q as %s is %+v", text, name, family, known[family])
				}
			}
		}
		if s, err := ParseServer(text); err == nil {
			again, err := ParseServer(s.String())
			if err != nil || again.Proto != s.Proto || again.Host != s.Host || again.Port != s.Port || again.ServerName != s.ServerName {
				t.Fatalf("%q is %+v, which is written %q, which is %+v, %v", text, s, s, again, err)
			}
		}
	})
}

// hostsSay reports whether a line names an address before a name.
func hostsSay(text, name string, a netip.Addr) bool {
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(strings.Split(line, "#")[0])
		for i, w := range words {
			first, err := netip.ParseAddr(words[0])
			if i > 0 && err == nil && first.Unmap() == a && strings.ToLower(strings.TrimSuffix(w, ".")) == name {
				return true
			}
		}
	}
	return false
}
