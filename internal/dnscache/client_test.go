package dnscache

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// noLeaks fails the test if goroutines that it started stay.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, before)
		}
	})
}

// newClient asks the servers, written as in a configuration.
func newClient(t *testing.T, trust *tls.Config, list ...string) *Client {
	t.Helper()
	var servers []Server
	for _, text := range list {
		s, err := ParseServer(text)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
	}
	c, err := NewClient(servers, trust, nil, System{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.servers {
		if e.try != TryTimeout {
			t.Errorf("%s has %s for a query", e, e.try)
		}
		e.try = 30 * time.Second // on a busy machine a handshake may take long
	}
	t.Cleanup(c.CloseIdle)
	return c
}

// protocols are the ways to ask a server.
func protocols(s *dnstest.Server) map[string]string {
	return map[string]string{
		"udp":   s.Addr,
		"tcp":   "tcp://" + s.Addr,
		"tls":   "tls://" + s.TLS,
		"https": s.HTTPS,
	}
}

// Each protocol brings the same answers.
func TestClientProtocols(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	s.Set("both.test", dnstest.Records{Addrs: addrs("192.0.2.1", "2001:db8::1", "192.0.2.2"), TTL: 60})
	s.Set("four.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, SOA: 7})
	s.Set("alias.test", dnstest.Records{Alias: "Both.test", TTL: 20})
	s.Set("chain.test", dnstest.Records{Alias: "alias.test", TTL: 90})
	s.Set("loop.test", dnstest.Records{Alias: "loop.test", TTL: 90})
	s.Set("nowhere.test", dnstest.Records{Rcode: dns.RcodeNameError, SOA: 11})
	s.Set("broken.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
	s.Set("refused.test", dnstest.Records{Rcode: dns.RcodeRefused})
	for proto, server := range protocols(s) {
		for _, tc := range []struct {
			name string
			f    Family
			want Reply
			err  string
		}{
			{"both.test", IPv4, Reply{Addrs: addrs("192.0.2.1", "192.0.2.2"), TTL: time.Minute}, ""},
			{"both.test", IPv6, Reply{Addrs: addrs("2001:db8::1"), TTL: time.Minute}, ""},
			{"four.test", IPv6, Reply{TTL: 7 * time.Second}, ""},
			{"alias.test", IPv4, Reply{Addrs: addrs("192.0.2.1", "192.0.2.2"), TTL: 20 * time.Second}, ""},
			{"chain.test", IPv6, Reply{Addrs: addrs("2001:db8::1"), TTL: 20 * time.Second}, ""},
			{"loop.test", IPv4, Reply{}, ""},
			{"nowhere.test", IPv4, Reply{TTL: 11 * time.Second, NoName: true}, ""},
			{"unknown.test", IPv6, Reply{NoName: true}, ""},
			{"broken.test", IPv4, Reply{}, "answered SERVFAIL"},
			{"refused.test", IPv4, Reply{}, "answered REFUSED"},
		} {
			t.Run(proto+" "+tc.name+" "+tc.f.String(), func(t *testing.T) {
				got, err := newClient(t, s.Trust, server).Lookup(t.Context(), tc.name, tc.f)
				if tc.err != "" {
					if err == nil || !strings.HasSuffix(err.Error(), tc.err) {
						t.Errorf("error %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got.Addrs, tc.want.Addrs) || got.TTL != tc.want.TTL || got.NoName != tc.want.NoName {
					t.Errorf("%+v, want %+v", got, tc.want)
				}
			})
		}
		if s.Asked(proto) == 0 {
			t.Errorf("nothing was asked over %s", proto)
		}
	}
}

// A truncated datagram is followed by the same question over TCP (RFC 7766 §5).
func TestClientTruncated_RFC7766_5(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	s.Set("many.test", dnstest.Records{Addrs: many, TTL: 60, Truncate: true})
	got, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "many.test", IPv4)
	if err != nil || len(got.Addrs) != 100 {
		t.Errorf("%d addresses, %v", len(got.Addrs), err)
	}
	if s.Asked("udp") != 1 || s.Asked("tcp") != 1 {
		t.Errorf("asked %d times over UDP, %d over TCP", s.Asked("udp"), s.Asked("tcp"))
	}
}

// Answers that belong to another question are dropped: over UDP the right one is
// waited for, elsewhere the exchange fails (RFC 5452 §9.1).
func TestClientForeignAnswers_RFC5452_9_1(t *testing.T) {
	noLeaks(t)
	forge := func(change func(m *dns.Msg)) func(q, answer *dns.Msg) []*dns.Msg {
		return func(q, answer *dns.Msg) []*dns.Msg {
			forged := new(dns.Msg)
			forged.SetReply(q)
			forged.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.IPv4(198, 51, 100, 66).To4(),
			}}
			change(forged)
			return []*dns.Msg{forged, answer}
		}
	}
	for name, change := range map[string]func(m *dns.Msg){
		"id":                             func(m *dns.Msg) { m.Id++ },
		"name":                           func(m *dns.Msg) { m.Question[0].Name = "other.test." },
		"type":                           func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":                          func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"no question":                    func(m *dns.Msg) { m.Question = nil },
		"no question, records, an error": func(m *dns.Msg) { m.Question, m.Rcode = nil, dns.RcodeServerFailure },
		"another question, an error":     func(m *dns.Msg) { m.Question[0].Name, m.Rcode = "other.test.", dns.RcodeServerFailure },
		"two":                            func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"a query":                        func(m *dns.Msg) { m.Response = false },
	} {
		t.Run(name, func(t *testing.T) {
			s := dnstest.Start(t)
			s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Instead: forge(change)})
			for proto, server := range protocols(s) {
				got, err := newClient(t, s.Trust, server).Lookup(t.Context(), "origin.test", IPv4)
				switch {
				case proto == "udp" && (err != nil || !slices.Equal(got.Addrs, addrs("192.0.2.1"))):
					t.Errorf("udp: %v, %v", got.Addrs, err)
				case proto != "udp" && err == nil:
					t.Errorf("%s: %v", proto, got.Addrs)
				}
			}
		})
	}
}

// Records of other names in an answer are not used.
func TestClientForeignRecords(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{TTL: 60, SOA: 5, Instead: func(q, m *dns.Msg) []*dns.Msg {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: "other.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.IPv4(198, 51, 100, 66).To4(),
		})
		return []*dns.Msg{m}
	}})
	got, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "origin.test", IPv4)
	if err != nil || len(got.Addrs) != 0 {
		t.Errorf("%v, %v", got.Addrs, err)
	}
}

// An answer in another case than the question is an answer.
func TestClientIgnoresCase(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Instead: func(q, m *dns.Msg) []*dns.Msg {
		m.Question[0].Name = "ORIGIN.test."
		m.Answer[0].Header().Name = "oRiGiN.tEsT."
		return []*dns.Msg{m}
	}})
	if got, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "origin.test", IPv4); err != nil || len(got.Addrs) != 1 {
		t.Errorf("%v, %v", got.Addrs, err)
	}
}

// A server that does not know EDNS is asked without (RFC 6891 §7).
func TestClientWithoutEDNS_RFC6891_7(t *testing.T) {
	for _, rcode := range []int{dns.RcodeFormatError, dns.RcodeNotImplemented} {
		s := dnstest.Start(t)
		s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Instead: func(q, m *dns.Msg) []*dns.Msg {
			if q.IsEdns0() != nil {
				m.Rcode, m.Answer = rcode, nil
			}
			return []*dns.Msg{m}
		}})
		got, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "origin.test", IPv4)
		if err != nil || len(got.Addrs) != 1 || s.Asked("udp") != 2 {
			t.Errorf("%s: %v, %v, asked %d times", dns.RcodeToString[rcode], got.Addrs, err, s.Asked("udp"))
		}
	}
}

// An error is an answer also where it has no question, as of servers that could not read
// the query: they are asked without EDNS, or the next one is.
func TestClientBareErrors(t *testing.T) {
	noLeaks(t)
	bare := func(rcode int) func(q, m *dns.Msg) []*dns.Msg {
		return func(q, m *dns.Msg) []*dns.Msg {
			if rcode == dns.RcodeFormatError && q.IsEdns0() == nil {
				return []*dns.Msg{m}
			}
			m.Rcode, m.Question, m.Answer, m.Ns, m.Extra = rcode, nil, nil, nil, nil
			return []*dns.Msg{m}
		}
	}
	good := dnstest.Start(t)
	good.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.9"), TTL: 60})
	for rcode, want := range map[int]string{
		dns.RcodeFormatError:   "192.0.2.1", // itself, when asked otherwise
		dns.RcodeServerFailure: "192.0.2.9",
		dns.RcodeRefused:       "192.0.2.9",
		dns.RcodeNameError:     "",
	} {
		s := dnstest.Start(t)
		s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Instead: bare(rcode)})
		for proto, server := range protocols(s) {
			c := newClient(t, s.Trust, server, good.Addr)
			got, err := c.Lookup(t.Context(), "origin.test", IPv4)
			if err != nil || want != "" && !slices.Equal(got.Addrs, addrs(want)) || want == "" && !got.NoName {
				t.Errorf("%s over %s: %+v, %v", dns.RcodeToString[rcode], proto, got, err)
			}
		}
	}
}

// Datagrams that are larger than what was asked for are read; of those that are larger
// still, the rest is asked for over TCP.
func TestClientLargeDatagrams(t *testing.T) {
	noLeaks(t)
	for n, overTCP := range map[int]int{100: 0, 300: 1} {
		var many []netip.Addr
		for i := range n {
			many = append(many, netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}))
		}
		s := dnstest.Start(t)
		s.Set("many.test", dnstest.Records{Addrs: many, TTL: 60})
		got, err := newClient(t, nil, s.Addr).Lookup(t.Context(), "many.test", IPv4)
		if err != nil || len(got.Addrs) != n || s.Asked("udp") != 1 || s.Asked("tcp") != overTCP {
			t.Errorf("%d addresses, %v; asked %d times over UDP, %d over TCP", len(got.Addrs), err, s.Asked("udp"), s.Asked("tcp"))
		}
	}
}

// Servers are asked in order. One that cannot be reached is not asked first any more,
// once several names have shown that and a check. One that cannot tell is.
func TestClientFailover(t *testing.T) {
	noLeaks(t)
	good := dnstest.Start(t)
	good.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	good.Set("other.test", dnstest.Records{Addrs: addrs("192.0.2.2"), TTL: 60})

	t.Run("cannot tell", func(t *testing.T) {
		broken := dnstest.Start(t)
		broken.Set("origin.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
		broken.Set("other.test", dnstest.Records{Addrs: addrs("192.0.2.9"), TTL: 60})
		c := newClient(t, nil, broken.Addr, good.Addr)
		if got, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil || !slices.Equal(got.Addrs, addrs("192.0.2.1")) {
			t.Fatalf("%v, %v", got.Addrs, err)
		}
		if n := broken.Asked("udp"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if got, err := c.Lookup(t.Context(), "other.test", IPv4); err != nil || !slices.Equal(got.Addrs, addrs("192.0.2.9")) {
			t.Errorf("the first server is no longer first: %v, %v", got.Addrs, err)
		}
	})
	t.Run("refuses connections", func(t *testing.T) {
		c := newClient(t, nil, "tcp://"+closedPort(t), good.Addr)
		for _, name := range []string{"origin.test", "other.test", "nowhere.test"} {
			if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
				t.Fatal(err)
			}
		}
		await(t, func() bool { return c.order("order.test", IPv4)[0] == c.servers[1] })
	})
	t.Run("nobody", func(t *testing.T) {
		first := closedPort(t)
		_, err := newClient(t, nil, "tcp://"+first, "tcp://"+closedPort(t)).Lookup(t.Context(), "origin.test", IPv4)
		if err == nil || !strings.Contains(err.Error(), first) {
			t.Errorf("%v", err)
		}
	})
}

// A server that is silent is given up after its time; the next one answers.
func TestClientSilence(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a timeout of two seconds")
	}
	noLeaks(t)
	s, quiet := dnstest.Start(t), dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	quiet.Set("origin.test", dnstest.Records{Silent: true})
	for proto, server := range protocols(quiet) {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, quiet.Trust, server, s.Addr)
			c.servers[0].try = TryTimeout
			begin := time.Now()
			got, err := c.Lookup(t.Context(), "origin.test", IPv4)
			if err != nil || len(got.Addrs) != 1 {
				t.Errorf("%v, %v", got.Addrs, err)
			}
			if took := time.Since(begin); took < TryTimeout {
				t.Errorf("given up after %s", took)
			}
			if !c.servers[0].isUp("order.test", IPv4) {
				t.Error("one name has made the server one that is asked last")
			}
		})
	}
}

// Whoever leaves does not wait for a silent server.
func TestClientCanceled(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Silent: true})
	for proto, server := range protocols(s) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for s.Asked(proto) == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if _, err := newClient(t, s.Trust, server).Lookup(ctx, "origin.test", IPv4); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", proto, err)
		}
		cancel()
	}
}

// Connections over TCP and TLS are used again, and a dead one is replaced.
func TestClientReusesStreams(t *testing.T) {
	noLeaks(t)
	for _, proto := range []string{"tcp", "tls"} {
		s := dnstest.Start(t)
		s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
		c := newClient(t, s.Trust, protocols(s)[proto])
		ask := func() {
			t.Helper()
			if got, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil || len(got.Addrs) != 1 {
				t.Fatalf("%s: %v, %v", proto, got.Addrs, err)
			}
		}
		for range 3 {
			ask()
		}
		if n := s.Conns(); n != 1 {
			t.Errorf("%s: %d connections for three questions", proto, n)
		}
		c.CloseIdle()
		ask()
		ask()
		if n := s.Conns(); n != 3 {
			t.Errorf("%s: %d connections: they are kept although the client is done", proto, n)
		}
	}
}

// A connection that the server closed while it waited costs nothing but a new one.
func TestClientDeadStream(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 8)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			dc := &dns.Conn{Conn: conn}
			if q, err := dc.ReadMsg(); err == nil {
				m := new(dns.Msg)
				m.SetReply(q)
				_ = dc.WriteMsg(m)
			}
			dc.Close() // one question a connection
			closed <- struct{}{}
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	server, err := ParseServer("tcp://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conns := newStreams(server, nil, connector(dialPlain, System{})) // below the client, which would ask again
	t.Cleanup(conns.closeIdle)
	for range 3 {
		if _, err := conns.exchange(t.Context(), question("origin.test", IPv4)); err != nil {
			t.Fatal(err)
		}
		<-closed
	}
}

// A certificate for another name is refused, and its name can be configured.
func TestClientCertificate(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	s.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	for server, ok := range map[string]bool{
		"tls://" + s.TLS:                  true,
		"tls://" + s.TLS + "#example.com": true,
		"tls://" + s.TLS + "#other.test":  false,
		s.HTTPS + "#example.com":          true,
		s.HTTPS + "#other.test":           false,
	} {
		_, err := newClient(t, s.Trust, server).Lookup(t.Context(), "origin.test", IPv4)
		if (err == nil) != ok {
			t.Errorf("%s: %v", server, err)
		}
	}
	if _, err := newClient(t, nil, "tls://"+s.TLS).Lookup(t.Context(), "origin.test", IPv4); err == nil {
		t.Error("a certificate that nobody vouches for was accepted")
	}
}

// await waits until something is so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}

// closedPort is an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestParseServer(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Server
		err  string
	}{
		{"192.0.2.1", Server{UDP, "192.0.2.1", 53, "", ""}, ""},
		{"192.0.2.1:5353", Server{UDP, "192.0.2.1", 5353, "", ""}, ""},
		{"2001:db8::1", Server{UDP, "2001:db8::1", 53, "", ""}, ""},
		{"[2001:db8::1]", Server{UDP, "2001:db8::1", 53, "", ""}, ""},
		{"[2001:db8::1]:5353", Server{UDP, "2001:db8::1", 5353, "", ""}, ""},
		{"udp://192.0.2.1", Server{UDP, "192.0.2.1", 53, "", ""}, ""},
		{"tcp://192.0.2.1:54", Server{TCP, "192.0.2.1", 54, "", ""}, ""},
		{"tls://192.0.2.1", Server{DoT, "192.0.2.1", 853, "192.0.2.1", ""}, ""},
		{"tls://dns.example", Server{DoT, "dns.example", 853, "dns.example", ""}, ""},
		{"tls://192.0.2.1:8853#dns.example", Server{DoT, "192.0.2.1", 8853, "dns.example", ""}, ""},
		{"https://dns.example/dns-query", Server{DoH, "dns.example", 443, "dns.example", "https://dns.example/dns-query"}, ""},
		{"https://[2001:db8::1]:8443/q?x=1#dns.example", Server{DoH, "2001:db8::1", 8443, "dns.example", "https://[2001:db8::1]:8443/q?x=1"}, ""},
		{"", Server{}, "the host is missing"},
		{"dns.example", Server{}, "not an IP address; a name is possible with tls:// and https:// only"},
		{"tcp://dns.example", Server{}, "not an IP address; a name is possible with tls:// and https:// only"},
		{"192.0.2.1:0", Server{}, "port '0' is not a number from 1 to 65535"},
		{"192.0.2.1:dns", Server{}, "port 'dns' is not a number from 1 to 65535"},
		{"192.0.2.1:1:2", Server{}, "not of the form host:port"},
		{"192.0.2.1/24", Server{}, "only a host and a port are possible"},
		{"tls://[", Server{}, "the host is neither a name nor an IP address"},
		{"https://a%25b/q", Server{}, "the host is neither a name nor an IP address"},
		{"tls://dns.example#a b", Server{}, "the name of the certificate behind '#' is neither a name nor an IP address"},
		{"https://dns.example/q#%25", Server{}, "the name of the certificate behind '#' is neither a name nor an IP address"},
		{"fe80::1%a b", Server{}, "only a host and a port are possible"},
		{"fe80::1%a\nb", Server{}, "only a host and a port are possible"},
		{"tls://192.0.2.1/x", Server{}, "only a host and a port are possible"},
		{"tls://192.0.2.1#", Server{}, "the name of the certificate behind '#' is empty"},
		{"quic://192.0.2.1", Server{}, "unknown scheme 'quic': one of udp, tcp, tls, https"},
		{"https://dns.example", Server{}, "the path is missing; most servers have '/dns-query'"},
		{"https:///dns-query", Server{}, "the host is missing"},
		{"https://user@dns.example/q", Server{}, "user information is not supported"},
	} {
		got, err := ParseServer(tc.in)
		if tc.err != "" {
			if err == nil || err.Error() != tc.err {
				t.Errorf("%s: error %v, want %s", tc.in, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", tc.in, got, err)
		}
		if again, err := ParseServer(got.String()); err != nil || again != got {
			t.Errorf("%s: %s is parsed as %+v, %v", tc.in, got, again, err)
		}
	}
}
