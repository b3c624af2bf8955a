package integration

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// newSOCKSRefusing starts a SOCKS5 proxy that connects to `to`, but says that it cannot reach
// an address that begins with one of some prefixes. take returns what it was asked for.
func newSOCKSRefusing(t *testing.T, to string, prefixes ...string) (up *rawOrigin, take func() []string) {
	return newSOCKSWithout(t, to, "\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", prefixes...)
}

// newSOCKSWithout is newSOCKSRefusing with another answer; "" is none.
func newSOCKSWithout(t *testing.T, to, answer string, prefixes ...string) (up *rawOrigin, take func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	up = newRawOrigin(t, func(oc *originConn) {
		read := func(n int) []byte {
			b := make([]byte, n)
			if _, err := io.ReadFull(oc.br, b); err != nil {
				runtime.Goexit()
			}
			return b
		}
		read(int(read(2)[1]))
		oc.send("\x05\x00")
		size := map[byte]int{1: net.IPv4len, 4: net.IPv6len}[read(4)[3]]
		host := net.IP(read(size)).String()
		read(2)
		mu.Lock()
		asked = append(asked, host)
		mu.Unlock()
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(host, p) }) {
			if answer == "" {
				_, _ = io.Copy(io.Discard, oc.br)
				return
			}
			oc.send(answer)
			return
		}
		tunnelTo(oc, to, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	})
	return up, func() []string {
		mu.Lock()
		defer mu.Unlock()
		list := asked
		asked = nil
		return list
	}
}

// forgetful is an origin that answers everything, however much that is.
func forgetful(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(oc *originConn) {
		for {
			oc.request()
			oc.send(okResponse)
		}
	})
}

// A socks5 upstream that cannot reach one address of a destination is told another one,
// whatever kind of request it is. That is charged neither to the upstream nor to the
// destination, and is remembered of the address, and of the family where none is reached.
func TestUpstreamSOCKS_OtherAddress(t *testing.T) {
	checkLeaks(t)
	origin := forgetful(t)
	up, take := newSOCKSRefusing(t, origin.addr, "2001:db8:", "127.9.")
	var hosts strings.Builder
	for i := range 20 {
		fmt.Fprintf(&hosts, "hosts_override dual%d.test 127.0.0.1 2001:db8::%d\nhosts_override two%d.test 127.9.0.%d 127.0.0.1\n", i, i+1, i, i+1)
	}
	p := start(t, mode{access: true}, setup{egress: "allow_unauthenticated\nhosts proxy.test\nacl {\n allow 127.0.0.0/8 2001:db8::/32\n}\n" +
		"transport {\n keepalive off\n " + hosts.String() + "}\nupstream socks5://" + up.addr})
	c := p.client(t, "h1")
	for _, tc := range []struct{ form, first string }{{"dual%d.test:80", "2001:db8::"}, {"two%d.test:80", "127.9.0."}} {
		for i := range 20 {
			dest := fmt.Sprintf(tc.form, i)
			for n, want := range [][]string{{tc.first + fmt.Sprint(i+1), "127.0.0.1"}, {"127.0.0.1"}} {
				c.get(t, "http://"+dest+"/").expect(t, 200, "ok")
				if i > 0 && tc.form == "dual%d.test:80" {
					want = []string{"127.0.0.1"} // the family is not reached
				}
				if asked := take(); i < 9 && !slices.Equal(asked, want) { // beyond, hexadecimal digits
					t.Errorf("%s, request %d: the upstream is asked for %v, want %v", dest, n, asked, want)
				}
			}
			resp, tun := c.connect(t, dest, "", nil)
			if resp.StatusCode != 200 {
				t.Fatal(resp.Status)
			}
			tun.Close()
			take()
		}
	}
}

// In a group in which some members are told addresses, and others names, what is allowed
// does not hang on which one is chosen; and a name that cannot be looked up here is left to
// those that resolve names themselves.
func TestUpstreamSOCKS_BothKinds(t *testing.T) {
	checkLeaks(t)
	origin := forgetful(t)
	byAddr, _ := newSOCKSUpstream(t, origin.addr)
	byName, asked := newSOCKSUpstream(t, origin.addr)
	s := dnstest.Start(t)
	s.Set("inside.test", dnstest.Records{Addrs: addresses("10.1.2.3"), TTL: 60})
	s.Set("mixed.test", dnstest.Records{Addrs: addresses("127.0.0.1", "10.1.2.3"), TTL: 60})
	s.Set("good.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60})
	p := start(t, mode{access: true}, setup{egress: "allow_unauthenticated\nhosts proxy.test\nacl {\n allow 127.0.0.0/8\n}\n" +
		"destination_circuit off\ntransport {\n resolvers " + s.Addr + "\n}\n" +
		"upstream socks5://" + byAddr.addr + "\nupstream socks5h://" + byName.addr})
	c := p.client(t, "h1")
	for range 20 {
		c.get(t, "http://good.test/").expect(t, 200, "ok")
		for _, name := range []string{"inside.test", "mixed.test"} {
			expectError(t, c.get(t, "http://"+name+"/").Response, 403, "destination_ip_prohibited")
			resp, _ := c.connect(t, name+":80", "", nil)
			expectError(t, resp, 403, "destination_ip_prohibited")
		}
		c.get(t, "http://nowhere.test/").expect(t, 200, "ok")
		resp, tun := c.connect(t, "nowhere.test:80", "", nil)
		if resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		tun.Close()
		for {
			select {
			case got := <-asked:
				if strings.Contains(got, "inside") || strings.Contains(got, "mixed") {
					t.Errorf("the upstream is asked for %s", got)
				}
				continue
			default:
			}
			break
		}
	}
}

// manyHosts are names with addresses of both families, and of one: dualN, fourN and sixN.test.
func manyHosts(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "hosts_override dual%d.test 127.0.1.%d 2001:db8::%d\n", i, i+1, i+1)
		fmt.Fprintf(&b, "hosts_override four%d.test 127.0.2.%d\nhosts_override six%d.test 2001:db8:1::%d\n", i, i+1, i, i+1)
	}
	return b.String()
}

// Upstreams that are silent for one address family, or refuse it, serve dual-stack names over
// the other one, and stay in rotation; so do those of which names of that family alone, and
// its addresses, are asked besides.
func TestUpstreamSOCKS_SilentFamily(t *testing.T) {
	const four, six, refused = "127.", "2001:db8:", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"
	for _, tc := range []struct {
		name, prefer, without, answer string
		members                       int
	}{
		{"IPv6 is silent, one member", "6", six, "", 1},
		{"IPv6 is silent, two members", "6", six, "", 2},
		{"IPv4 is silent, two members", "4", four, "", 2},
		{"IPv6 is refused, two members", "6", six, refused, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			origin := forgetful(t)
			var ups string
			for range tc.members {
				up, _ := newSOCKSWithout(t, origin.addr, tc.answer, tc.without)
				ups += " upstream socks5://" + up.addr + "\n"
			}
			p := start(t, mode{access: true}, measured("allow_unauthenticated\nhosts proxy.test\nacl {\n allow 127.0.0.0/8 2001:db8::/32\n}\n"+
				"transport {\n keepalive off\n prefer_ip "+tc.prefer+"\n "+manyHosts(40)+"}\n"+
				"upstreams default {\n lb_policy round_robin\n attempt_timeout 2s\n"+ups+"}\n"))
			c := p.client(t, "h1")
			dual := 0
			work := func(n int) {
				t.Helper()
				for range n {
					c.get(t, fmt.Sprintf("http://dual%d.test/", dual)).expect(t, 200, "ok")
					c.open(t, fmt.Sprintf("dual%d.test:80", dual+1)).Close()
					dual += 2
				}
			}
			work(6)
			only, literal := "six%d.test:80", "[2001:db8:2::%d]:80"
			if tc.without == four {
				only, literal = "four%d.test:80", "127.0.3.%d:80"
			}
			others := p.client(t, "h2")
			var asked sync.WaitGroup
			for i := range 4 {
				for _, form := range []string{only, literal} {
					asked.Go(func() {
						if status, err := others.tryConnect(fmt.Sprintf(form, i+1)); err == nil && status == 200 {
							t.Errorf("%s is reached", form)
						}
					})
				}
			}
			asked.Wait()
			work(6)
			for name, value := range p.scrape(t) {
				switch {
				case strings.HasPrefix(name, "upstreams_healthy"):
					if value != 2 { // of both servers
						t.Errorf("%s is %g", name, value)
					}
				case strings.HasPrefix(name, "upstream_requests_total"):
					if !strings.Contains(name, `"success"`) && !strings.Contains(name, `"neutral"`) && value != 0 {
						t.Errorf("%s is %g", name, value)
					}
				}
			}
		})
	}
}

// An upstream that is silent for both families leaves the rotation.
func TestUpstreamSOCKS_SilentForBoth(t *testing.T) {
	checkLeaks(t)
	origin := forgetful(t)
	dead, _ := newSOCKSWithout(t, origin.addr, "", "127.", "2001:db8:")
	good, _ := newSOCKSWithout(t, origin.addr, "", "2001:db8:")
	p := start(t, mode{access: true}, measured("allow_unauthenticated\nhosts proxy.test\nacl {\n allow 127.0.0.0/8 2001:db8::/32\n}\n"+
		"transport {\n keepalive off\n "+manyHosts(40)+"}\n"+
		"upstreams default {\n lb_policy round_robin\n attempt_timeout 500ms\n upstream socks5://"+dead.addr+"\n upstream socks5://"+good.addr+"\n}\n"))
	c := p.client(t, "h1")
	healthy := func(up *rawOrigin) bool {
		for name, value := range p.scrape(t) {
			if strings.HasPrefix(name, "upstreams_healthy") && strings.Contains(name, up.addr) {
				return value == 2
			}
		}
		return false
	}
	for i := range 40 {
		c.open(t, fmt.Sprintf("dual%d.test:80", i)).Close()
		if !healthy(dead) {
			break
		}
	}
	if healthy(dead) || !healthy(good) {
		t.Errorf("in rotation: %t and %t", healthy(dead), healthy(good))
	}
}

// In such a group, a resolver that does not answer keeps nobody from the members that resolve
// names themselves. Where none of these can be used, it is waited for after all, and what it
// says then holds.
func TestUpstreamSOCKS_BothKinds_LateNames(t *testing.T) {
	checkLeaks(t)
	origin := forgetful(t)
	byAddr, _ := newSOCKSUpstream(t, origin.addr)
	for _, tc := range []struct {
		name  string
		works bool   // the member that resolves names
		addr  string // that is told in the end
		want  int
	}{
		{"it is left to the other member", true, "127.0.0.1", 200},
		{"the other member fails", false, "127.0.0.1", 200},
		{"the other member fails, and the address is denied", false, "10.1.2.3", 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			served := make(chan struct{})
			once := sync.OnceFunc(func() { close(served) })
			byName := newForwarder(t, "by name")
			if !tc.works {
				byName = newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
					once()
					oc.send("HTTP/1.1 503 Service Unavailable\r\nProxy-Status: fake; error=proxy_internal_error\r\nContent-Length: 0\r\n\r\n")
					return false
				})
			}
			s := dnstest.Start(t)
			s.Set("late.test", dnstest.Records{Addrs: addresses(tc.addr), TTL: 60, Wait: served})
			p := start(t, mode{access: true}, setup{egress: "allow_unauthenticated\nhosts proxy.test\nacl {\n allow 127.0.0.0/8\n}\n" +
				"transport {\n keepalive off\n dial_timeout 1m\n resolvers " + s.Addr + " " + s.Addr + "\n}\n" +
				"upstream socks5://" + byAddr.addr + "\nupstream http://" + byName.addr})
			resp := p.client(t, "h1").get(t, "http://late.test/")
			if tc.works {
				once()
				resp.expect(t, 200, "by name")
				return
			}
			if resp.StatusCode != tc.want {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
		})
	}
}
