package integration

import (
	"net"
	"strings"
	"testing"

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
			// Names of their own: reverse_proxy remembers answers for the whole process.
			name := source + port(s.Addr) + ".test"
			settings := " {\n refresh 1ms\n resolvers " + s.Addr + "\n"
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
