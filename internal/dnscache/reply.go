package dnscache

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxAliases bounds the CNAME records that are followed in an answer.
const maxAliases = 16

// belongs reports whether m is an answer to q: the same ID and the same question
// (RFC 5452 §9.1). An error may come without the question: servers that cannot read a
// query send the header alone (RFC 1035 §4.1.1), and so do some that refuse it.
func belongs(m, q *dns.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != q.Opcode {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && len(m.Answer) == 0
	}
	return len(m.Question) == 1 &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name)
}

// replyOf reads an answer. Only records of the name that was asked for count, or
// of the name that its CNAME records lead to: what else stands in the answer was
// not asked for. The time is the shortest of those on the way.
func replyOf(m *dns.Msg, name string, f Family) Reply {
	owner, ttl := name+".", uint32(MaxTTL/time.Second)
	for range maxAliases {
		alias := aliasOf(m, owner)
		if alias == nil {
			break
		}
		owner, ttl = alias.Target, min(ttl, alias.Hdr.Ttl)
	}
	var r Reply
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Class != dns.ClassINET || !strings.EqualFold(h.Name, owner) {
			continue
		}
		a, ok := addrOf(rr, f)
		if !ok {
			continue
		}
		r.Addrs = append(r.Addrs, a)
		ttl = min(ttl, rr.Header().Ttl)
	}
	if len(r.Addrs) == 0 {
		return Reply{TTL: negativeTTL(m), NoName: m.Rcode == dns.RcodeNameError}
	}
	r.TTL, r.Partial = time.Duration(ttl)*time.Second, m.Truncated
	return r
}

// saysNothing tells answers without addresses that do not mean that there are none: those
// that are cut off, and those of a server that is no authority for the name and has asked
// none (a lame delegation, RFC 1912 §2.8). It is empty for others.
func saysNothing(m *dns.Msg) refusal {
	lame := m.Rcode == dns.RcodeSuccess && !m.Authoritative && !m.RecursionAvailable
	switch {
	case m.Truncated:
		return "in part only, also over a stream"
	case lame && !slices.ContainsFunc(m.Ns, isSOA):
		return "that it does not know, and does not ask others"
	}
	return ""
}

func isSOA(rr dns.RR) bool {
	_, ok := rr.(*dns.SOA)
	return ok
}

func aliasOf(m *dns.Msg, owner string) *dns.CNAME {
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok && c.Hdr.Class == dns.ClassINET && strings.EqualFold(c.Hdr.Name, owner) {
			return c
		}
	}
	return nil
}

func addrOf(rr dns.RR, f Family) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		if f == IPv4 {
			return netip.AddrFromSlice(rr.A.To4())
		}
	case *dns.AAAA:
		if f == IPv6 {
			return netip.AddrFromSlice(rr.AAAA)
		}
	}
	return netip.Addr{}, false
}

// negativeTTL is how long an answer without addresses holds (RFC 2308 §5); 0
// where it does not say.
func negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return 0
}
