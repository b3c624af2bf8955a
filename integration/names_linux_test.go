package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

func addresses(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// eachResolver runs f with Caddy asking a DNS server of the test's own over UDP
// and over TCP.
func eachResolver(t *testing.T, f func(t *testing.T, m mode, s *dnstest.Server, resolvers string)) {
	t.Helper()
	for _, proto := range []string{"udp", "tcp"} {
		t.Run(proto, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				s := dnstest.Start(t)
				f(t, m, s, "resolvers "+proto+"://"+s.Addr+"\n")
			})
		})
	}
}

// withNames is the body of an egress block that opens loopback, with words of
// transport.
func withNames(transport string) setup {
	return setup{egress: usual + "transport {\n" + transport + "}\n"}
}

// countingOrigin answers on each of the hosts, at the same port, and counts.
func countingOrigin(t *testing.T, hosts ...string) (map[string]*rawOrigin, string) {
	t.Helper()
	for range 20 {
		listeners := map[string]net.Listener{}
		p := "0"
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, p))
			if err != nil {
				break
			}
			listeners[host] = ln
			p = port(ln.Addr().String())
		}
		if len(listeners) < len(hosts) {
			for _, ln := range listeners {
				ln.Close()
			}
			continue
		}
		origins := map[string]*rawOrigin{}
		for host, ln := range listeners {
			origins[host] = serveRaw(t, ln, func(oc *originConn) {
				for {
					oc.request()
					oc.ok("from " + host)
				}
			})
		}
		return origins, p
	}
	t.Fatalf("no port that is free on all of %v", hosts)
	return nil, ""
}

// A configured DNS server is asked, once for many requests, and what it says is
// what is connected to.
func TestNames_Resolvers(t *testing.T) {
	eachResolver(t, func(t *testing.T, m mode, s *dnstest.Server, resolvers string) {
		origins, p := countingOrigin(t, "127.0.0.1")
		s.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
		s.Set("alias.test", dnstest.Records{Alias: "origin.test", TTL: 60, SOA: 60})
		s.Set("evil.test", dnstest.Records{Addrs: addresses("169.254.169.254", "10.0.0.1"), TTL: 60, SOA: 60})
		s.Set("broken.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
		proxy := start(t, m, withNames(resolvers))
		eachClient(t, proxy, func(t *testing.T, c *client) {
			c.get(t, "http://origin.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
			c.get(t, "http://alias.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
			c.get(t, "http://ORIGIN.test.:"+p+"/").expect(t, 200, "from 127.0.0.1")
			resp, tun := c.connect(t, "origin.test:"+p, "", nil)
			if resp.StatusCode != 200 {
				t.Errorf("CONNECT: %d", resp.StatusCode)
			}
			tun.Close()
			expectError(t, c.get(t, "http://evil.test:"+p+"/").Response, 403, "destination_ip_prohibited")
			expectError(t, c.get(t, "http://nowhere.test:"+p+"/").Response, 502, "dns_error")
			expectError(t, c.get(t, "http://broken.test:"+p+"/").Response, 502, "dns_error")
		})
		if n := s.Asked("origin.test"); n != 2 {
			t.Errorf("asked %d times for A and AAAA of a name whose answer lives a minute", n)
		}
		if origins["127.0.0.1"].count() == 0 {
			t.Error("nobody connected")
		}
	})
}

// Fixed names and the hosts file come before the DNS server, and are no way around
// the access rules.
func TestNames_HostsOverride(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := dnstest.Start(t)
		_, p := countingOrigin(t, "127.0.0.1")
		proxy := start(t, m, withNames("resolvers "+s.Addr+"\nhosts_override Origin.test. 127.0.0.1\nhosts_override evil.test 169.254.169.254 10.0.0.1\n"))
		eachClient(t, proxy, func(t *testing.T, c *client) {
			c.get(t, "http://origin.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
			expectError(t, c.get(t, "http://evil.test:"+p+"/").Response, 403, "destination_ip_prohibited")
			c.get(t, "http://localhost:"+p+"/").expect(t, 200, "from 127.0.0.1")
		})
		for _, name := range []string{"origin.test", "evil.test", "localhost"} {
			if n := s.Asked(name); n > 0 {
				t.Errorf("asked %d times for %s", n, name)
			}
		}
	})
}

// Scenarios 11 and 12 of the plan, over one time to live. A name that was allowed
// and is now 127.0.0.1 is refused, and nothing connects. A name whose server fails
// keeps its address, until the name is gone.
func TestNames_RebindingAndStale(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	origins, p := countingOrigin(t, "127.0.0.1", "127.0.0.2")
	s.Set("rebinding.test", dnstest.Records{Addrs: addresses("127.0.0.2")})
	s.Set("flaky.test", dnstest.Records{Addrs: addresses("127.0.0.2")})
	proxy := start(t, modes[0], setup{egress: "allow_unauthenticated\nacl {\n allow 127.0.0.2\n}\ntransport {\n keepalive off\n resolvers " + s.Addr + "\n}\n"})
	c := proxy.client(t, "h1")
	get := func(name string) *response { return c.get(t, "http://"+name+":"+p+"/") }
	get("rebinding.test").expect(t, 200, "from 127.0.0.2")
	get("flaky.test").expect(t, 200, "from 127.0.0.2")

	s.Set("rebinding.test", dnstest.Records{Addrs: addresses("127.0.0.1")})
	s.Set("flaky.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
	asked := s.Asked("udp A flaky.test")
	eventually(t, "the end of the first answers", func() bool {
		get("flaky.test").expect(t, 200, "from 127.0.0.2") // stale, when its time is over
		return get("rebinding.test").StatusCode == 403 && s.Asked("udp A flaky.test") > asked
	})
	expectError(t, get("rebinding.test").Response, 403, "destination_ip_prohibited")
	resp, tun := c.connect(t, "rebinding.test:"+p, "", nil)
	expectError(t, resp, 403, "destination_ip_prohibited")
	tun.Close()

	s.Set("flaky.test", dnstest.Records{Rcode: dns.RcodeNameError})
	eventually(t, "the end of the stale answer", func() bool { return get("flaky.test").StatusCode == 502 })
	expectError(t, get("flaky.test").Response, 502, "dns_error")
	if n := origins["127.0.0.1"].count(); n > 0 {
		t.Errorf("127.0.0.1 was connected to %d times", n)
	}
}

// A reload that leaves the resolver as it is keeps its answers.
func TestNames_Reload(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	_, p := countingOrigin(t, "127.0.0.1")
	s.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 600, SOA: 600})
	addr, storage := freeAddr(t), t.TempDir()
	config := func(transport string) string {
		return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n egress {\n%stransport {\n resolvers %s\n %s}\n}\n}\n",
			globals{grace: "2s", storage: storage}, port(addr), usual, s.Addr, transport)
	}
	load(t, config(""))
	proxy := &proxy{plain: addr}
	for i, step := range []struct {
		transport string
		asked     int // for A, in all
	}{
		{"", 1},
		{"dial_timeout 3s\n", 1},
		{"hosts_override other.test 127.0.0.1\n", 2},
	} {
		if i > 0 {
			if err := tryLoad(t, config(step.transport)); err != nil {
				t.Fatal(err)
			}
		}
		proxy.getAfterReload(t, "http://origin.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
		if n := s.Asked("udp A origin.test"); n != step.asked {
			t.Errorf("step %d: asked %d times, want %d", i, n, step.asked)
		}
	}
}

// The families that are not to be used are not, and that is said.
func TestNames_PreferIP(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := dnstest.Start(t)
		_, p := countingOrigin(t, "127.0.0.1", "::1")
		s.Set("both.test", dnstest.Records{Addrs: addresses("127.0.0.1", "::1"), TTL: 60, SOA: 60})
		s.Set("six.test", dnstest.Records{Addrs: addresses("::1"), TTL: 60, SOA: 60})
		for prefer, want := range map[string]string{"4": "127.0.0.1", "6": "::1", "4_only": "127.0.0.1", "6_only": "::1"} {
			t.Run(prefer, func(t *testing.T) {
				proxy := start(t, m, withNames("prefer_ip "+prefer+"\nresolvers "+s.Addr+"\n"))
				c := proxy.client(t, "h1")
				c.get(t, "http://both.test:"+p+"/").expect(t, 200, "from "+want)
				if prefer == "4_only" {
					expectError(t, c.get(t, "http://six.test:"+p+"/").Response, 502, "dns_error")
					expectError(t, c.get(t, "http://[::1]:"+p+"/").Response, 502, "destination_ip_unroutable")
				}
			})
		}
	})
}

// sourceOrigin answers with the address that a connection comes from.
func sourceOrigin(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(oc *originConn) {
		for {
			oc.request()
			host, _, _ := net.SplitHostPort(oc.RemoteAddr().String())
			oc.ok(host)
		}
	})
}

// New connections leave from the local addresses in turn; a pooled one is used
// whatever address it has.
func TestLocalAddress_RoundRobin(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for keep, want := range map[string]string{"off": "127.0.0.3 127.0.0.4 127.0.0.3 127.0.0.4", "1m": "127.0.0.3 127.0.0.3 127.0.0.3 127.0.0.3"} {
			origin := sourceOrigin(t)
			c := start(t, m, withNames("local_address 127.0.0.3 127.0.0.4\nkeepalive "+keep+"\n")).client(t, "h1")
			var got []string
			for range 4 {
				got = append(got, c.get(t, origin.url("/")).body)
			}
			if s := strings.Join(got, " "); s != want {
				t.Errorf("keepalive %s: from %s", keep, s)
			}
		}
	})
}

// With user_hash each user has one address, also over pooled connections, and for
// tunnels as for exchanges.
func TestLocalAddress_UserHash(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin := sourceOrigin(t)
		users := []string{"ada", "bob", "cy", "dee", "eve", "fay", "gus", "hal"}
		auth := ""
		for _, u := range users {
			auth += "basic_auth " + u + " pw\n"
		}
		p := start(t, m, setup{egress: auth + "hosts proxy.test\n" + openLoopback +
			"transport {\n local_address 127.0.0.3 127.0.0.4 127.0.0.5 127.0.0.6 {\n  pick user_hash\n }\n}\n"})
		from := map[string]string{}
		eachClient(t, p, func(t *testing.T, c *client) {
			for range 2 {
				for _, u := range users {
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.Header.Set("Proxy-Authorization", basic(u, "pw"))
					got := c.do(t, r).body
					if before, ok := from[u]; ok && before != got {
						t.Errorf("%s comes from %s and from %s", u, before, got)
					}
					from[u] = got
				}
			}
			resp, tun := c.connect(t, origin.addr, "", http.Header{"Proxy-Authorization": {basic("ada", "pw")}})
			if resp.StatusCode != 200 {
				t.Fatalf("CONNECT: %d", resp.StatusCode)
			}
			write(t, tun, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			const head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
			if got := readN(t, tun, len(head)+len(from["ada"]))[len(head):]; got != from["ada"] {
				t.Errorf("tunnel from %s, exchanges from %s", got, from["ada"])
			}
			tun.Close()
		})
		distinct := map[string]bool{}
		for _, a := range from {
			distinct[a] = true
		}
		if len(distinct) < 2 {
			t.Errorf("all users come from %v", distinct)
		}
	})
}

// A local address that the machine does not have is an error of the configuration:
// told at the start, and not blamed on the destination.
func TestLocalAddress_Missing(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin := sourceOrigin(t)
		p := start(t, m, withNames("local_address 192.0.2.1\n"))
		p.logs.wait(t, "the warning", func(l logLine) bool {
			return l.str("level") == "warn" && l.str("address") == "192.0.2.1"
		})
		expectError(t, p.client(t, "h1").get(t, origin.url("/")).Response, 500, "proxy_configuration_error")
		if n := origin.count(); n > 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// Scenario 10: behind a name whose IPv6 address is a black hole, IPv4 starts after
// the fallback delay and wins.
func TestNames_BlackHole_RFC8305_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const delay = 250 * time.Millisecond
		s := dnstest.Start(t)
		origins, p := countingOrigin(t, "127.0.0.1")
		blackHoleAt(t, "[::1]:"+p)
		s.Set("dual.test", dnstest.Records{Addrs: addresses("::1", "127.0.0.1"), TTL: 60})
		proxy := start(t, m, withNames("keepalive off\nresolvers "+s.Addr+"\n"))
		begin := time.Now()
		proxy.client(t, "h1").get(t, "http://dual.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
		if took := time.Since(begin); took < delay {
			t.Errorf("IPv4 was tried after %s already", took)
		}
		eachClientAtOnce(t, proxy, func(t *testing.T, c *client) {
			c.get(t, "http://dual.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
		})
		if n := origins["127.0.0.1"].count(); n == 0 {
			t.Error("nobody connected")
		}
	})
}

// DNS servers are asked from the local addresses of the transport, by turn, over each
// protocol.
func TestLocalAddress_Resolvers(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	origin := sourceOrigin(t)
	for proto, words := range map[string]string{
		"udp":   s.Addr,
		"tcp":   "tcp://" + s.Addr,
		"tls":   "tls://" + s.TLS + " {\n tls_insecure_skip_verify\n}",
		"https": s.HTTPS + " {\n tls_insecure_skip_verify\n}",
	} {
		names := []string{proto + "1.test", proto + "2.test"}
		for _, name := range names {
			s.Set(name, dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
		}
		c := start(t, modes[0], withNames("resolvers "+words+"\nlocal_address 127.0.0.5 127.0.0.6 {\n pick user_hash\n}\n")).client(t, "h1")
		for _, name := range names {
			if r := c.get(t, "http://"+name+":"+port(origin.addr)+"/"); r.StatusCode != 200 {
				t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
			}
		}
		five, six := s.Asked(proto+" from 127.0.0.5"), s.Asked(proto+" from 127.0.0.6")
		if five+six != s.Asked(proto) || five+six != 2 || proto == "udp" && five != 1 {
			t.Errorf("%s: %d questions, %d and %d from the local addresses", proto, s.Asked(proto), five, six)
		}
	}
}
