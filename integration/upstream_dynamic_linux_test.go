package integration

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// dnsMembers are three upstreams at one port, of which the first serves nobody.
func dnsMembers(t *testing.T) (sick, a, b *fakeUpstream, p string) {
	t.Helper()
	members := map[string]*fakeUpstream{}
	hosts := []string{"127.0.0.11", "127.0.0.12", "127.0.0.13"}
	listeners := listenOnePort(t, hosts)
	for i, host := range hosts {
		u := new(fakeUpstream)
		u.rawOrigin = serveRaw(t, listeners[i], func(oc *originConn) {
			for {
				oc.request()
				u.heads.Add(1)
				if host == hosts[0] {
					return
				}
				oc.ok(host)
			}
		})
		members[host] = u
	}
	return members[hosts[0]], members[hosts[1]], members[hosts[2]], port(listeners[0].Addr().String())
}

// listenOnePort listens at one port of all hosts.
func listenOnePort(t *testing.T, hosts []string) []net.Listener {
	t.Helper()
	for range 20 {
		var all []net.Listener
		p := "0"
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, p))
			if err != nil {
				break
			}
			all = append(all, ln)
			p = port(ln.Addr().String())
		}
		if len(all) == len(hosts) {
			return all
		}
		for _, ln := range all {
			ln.Close()
		}
	}
	t.Fatalf("no port that is free on all of %v", hosts)
	return nil
}

// The members of a group come from DNS, by each of the sources that Caddy brings: they
// come and go with the records, and those that stay keep their health and connections.
func TestUpstreamSource_DNS(t *testing.T) {
	for _, source := range []string{"a", "srv", "multi"} {
		t.Run(source, func(t *testing.T) {
			checkLeaks(t)
			s := dnstest.Start(t)
			sick, a, b, p := dnsMembers(t)
			s.Set("one.test", dnstest.Records{Addrs: addresses("127.0.0.11"), TTL: 1})
			s.Set("two.test", dnstest.Records{Addrs: addresses("127.0.0.12"), TTL: 1})
			s.Set("three.test", dnstest.Records{Addrs: addresses("127.0.0.13"), TTL: 1})
			name := source + port(s.Addr) + ".test"
			settings := " {\n refresh 1s\n resolvers " + s.Addr + "\n"
			dynamic := "dynamic a" + settings + " name " + name + "\n port " + p + "\n versions ipv4\n}\n"
			tell := func(addrs ...string) { s.Set(name, dnstest.Records{Addrs: addresses(addrs...), TTL: 1}) }
			srv := func(addrs ...string) {
				names := map[string]string{"127.0.0.11": "one.test:", "127.0.0.12": "two.test:", "127.0.0.13": "three.test:"}
				var list []string
				for _, a := range addrs {
					list = append(list, names[a]+p)
				}
				s.Set("_proxy._tcp."+name, dnstest.Records{SRV: list, TTL: 1})
			}
			switch source {
			case "srv":
				dynamic = "dynamic srv" + settings + " service proxy\n proto tcp\n name " + name + "\n}\n"
				tell = srv
			case "multi":
				dynamic = "dynamic multi {\n " + strings.Replace(dynamic, "dynamic ", "", 1) +
					" srv" + settings + " service proxy\n proto tcp\n name " + name + "\n}\n}\n"
				one := tell
				tell = func(addrs ...string) { // the first by its address, the others by their names
					one(addrs[:1]...)
					srv(addrs[1:]...)
				}
			}
			tell("127.0.0.11", "127.0.0.12")
			c := start(t, modes[0], setup{egress: usual + "upstreams default {\n" + dynamic +
				"scheme http\nlb_policy round_robin\ncircuit {\n consecutive_failures 1\n open_for 10m\n max_open_for 10m\n panic_below 0\n}\n}\n" +
				"transport {\n resolvers " + s.Addr + "\n}\n"}).client(t, "h1")
			serves := func(want ...string) bool {
				seen := map[string]bool{}
				for range 2 * len(want) {
					r := c.get(t, "http://o.test/")
					if r.StatusCode != 200 {
						return false
					}
					seen[r.body] = true
				}
				for _, host := range want {
					if !seen[host] {
						return false
					}
				}
				return len(seen) == len(want)
			}
			eventually(t, "the second member", func() bool { return serves("127.0.0.12") && sick.asked() > 0 })
			asked := sick.asked()
			tell("127.0.0.11", "127.0.0.12", "127.0.0.13")
			eventually(t, "the third member", func() bool { return serves("127.0.0.12", "127.0.0.13") })
			if n := a.count(); n != 1 {
				t.Errorf("%d connections to the one that stayed", n)
			}
			tell("127.0.0.11", "127.0.0.13")
			eventually(t, "the second member to go", func() bool { return serves("127.0.0.13") })
			if n := sick.asked(); n != asked {
				t.Errorf("the sick one was asked %d times, and %d times before: its health was forgotten", n, asked)
			}
			if n := b.count(); n != 1 {
				t.Errorf("%d connections to the third", n)
			}
		})
	}
}

// aSource is `a` for a name at a server, without its head.
func aSource(s *dnstest.Server, name, port, refresh string) string {
	return "a {\n name " + name + "\n port " + port + "\n refresh " + refresh + "\n resolvers " + s.Addr + "\n versions ipv4\n}\n"
}

// A part of `multi` that fails takes no members out, and neither do all of them.
func TestUpstreamSource_PartFails(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	_, _, _, p := dnsMembers(t)
	one, two := "one"+port(s.Addr)+".test", "two"+port(s.Addr)+".test"
	s.Set(one, dnstest.Records{Addrs: addresses("127.0.0.12"), TTL: 1})
	s.Set(two, dnstest.Records{Addrs: addresses("127.0.0.13"), TTL: 1})
	c := start(t, modes[0], setup{egress: usual + "upstreams default {\n dynamic multi {\n" + aSource(s, one, p, "1s") + aSource(s, two, p, "1s") +
		"}\n scheme http\n lb_policy round_robin\n}\n"}).client(t, "h1")
	serves := func() (n int) {
		seen := map[string]bool{}
		for range 4 {
			seen[c.get(t, "http://o.test/").body] = true
		}
		return len(seen)
	}
	eventually(t, "both members", func() bool { return serves() == 2 })
	for _, name := range []string{two, one} {
		s.Set(name, dnstest.Records{Rcode: dns.RcodeServerFailure})
		asked := s.Asked(name)
		eventually(t, "the server is asked again", func() bool { return s.Asked(name) >= asked+9 }) // twice each time, for each site
		if n := serves(); n != 2 {
			t.Errorf("%d of two members serve when %s fails", n, name)
		}
	}
}

// A source leaves what reverse_proxy keeps for the whole process, and the lock around it,
// to reverse_proxy.
func TestUpstreamSource_NotShared(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	_, _, _, p := dnsMembers(t)
	name := "shared" + port(s.Addr) + ".test"
	s.Set(name, dnstest.Records{Addrs: addresses("127.0.0.12"), TTL: 1})
	c := start(t, modes[0], setup{egress: usual + "upstreams default {\n dynamic " + aSource(s, name, p, "1h") + " scheme http\n}\n"}).client(t, "h1")
	c.until(t, 200, "127.0.0.12")
	s.Set(name, dnstest.Records{Addrs: addresses("127.0.0.13"), TTL: 1})

	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	v4 := true
	site := &reverseproxy.AUpstreams{
		Name: name, Port: p, Refresh: caddy.Duration(time.Hour), Versions: &reverseproxy.IPVersions{IPv4: &v4},
		Resolver: &reverseproxy.UpstreamResolver{Addresses: []string{s.Addr}},
	}
	if err := site.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "http://o.test/", nil), caddy.NewReplacer(), nil, nil)
	upstreams, err := site.GetUpstreams(r)
	if err != nil || len(upstreams) != 1 || upstreams[0].Dial != "127.0.0.13:"+p {
		t.Errorf("%v, %v: not its own answer", upstreams, err)
	}
}

// The priority of an SRV record is that of its member.
func TestUpstreamSource_SRVPriority(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	_, first, second, p := dnsMembers(t)
	name := "_proxy._tcp.ranked" + port(s.Addr) + ".test"
	s.Set("one.test", dnstest.Records{Addrs: addresses("127.0.0.12"), TTL: 1})
	s.Set("two.test", dnstest.Records{Addrs: addresses("127.0.0.13"), TTL: 1})
	s.Set(name, dnstest.Records{SRV: []string{"one.test:" + p, "two.test:" + p}, TTL: 1, Instead: func(_, answer *dns.Msg) []*dns.Msg {
		for i, r := range answer.Answer {
			r.(*dns.SRV).Priority = uint16(20 - 10*i)
		}
		return []*dns.Msg{answer}
	}})
	c := start(t, modes[0], setup{egress: usual + "upstreams default {\n dynamic srv " + name + " {\n resolvers " + s.Addr +
		"\n}\n scheme http\n lb_policy round_robin\n}\ntransport {\n resolvers " + s.Addr + "\n}\n"}).client(t, "h1")
	c.until(t, 200, "127.0.0.13")
	for range 4 {
		c.get(t, "http://o.test/").expect(t, 200, "127.0.0.13")
	}
	if first.asked() != 0 || second.asked() == 0 {
		t.Errorf("the one behind was asked %d times, the first %d times", first.asked(), second.asked())
	}
}
