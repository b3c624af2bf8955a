package integration

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// replaceFile writes a file as configuration management does: at once.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// withRules is an open proxy towards loopback, whose first rule denies what a file
// says.
func withRules(path, onChange string) string {
	return "allow_unauthenticated\nhosts proxy.test\nacl {\n deny_file " + path + "\n}\n" + openLoopback +
		"tunnel {\n on_policy_change " + onChange + "\n}\n"
}

// ended waits for the end of a tunnel.
func ended(t *testing.T, tun *tunnel, what string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, tun)
	}()
	await(t, done, "the end of "+what)
}

// awaitLines waits until so many lines are logged that match accepts.
func (c *logCapture) awaitLines(t *testing.T, what string, want int, match func(l logLine) bool) {
	t.Helper()
	c.wait(t, what, func(logLine) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := 0
		for _, l := range c.lines {
			if match(l) {
				n++
			}
		}
		return n >= want
	})
}

// awaitPolicyEnds waits for the lines of tunnels to dest that the rules have ended.
func (c *logCapture) awaitPolicyEnds(t *testing.T, dest string, want int) {
	t.Helper()
	c.awaitLines(t, "the lines of tunnels to "+dest, want, func(l logLine) bool {
		return l.isAccess() && l.str("request.host") == dest && l.num("status") == 200 &&
			l.str("egress.close_reason") == "policy" && l.num("egress.bytes_up") >= 4
	})
}

// When a file of rules changes, tunnels end that it forbids now, by name, by port
// or by address, from clients of all protocols, and no others; their log lines say
// why. New ones are refused. With keep, they go on.
func TestPolicyChange_File(t *testing.T) {
	for _, onChange := range []string{"close", "keep"} {
		t.Run(onChange, func(t *testing.T) {
			checkLeaks(t)
			list := filepath.Join(t.TempDir(), "denied")
			replaceFile(t, list, "# nothing yet\n")
			p := start(t, mode{access: true}, setup{egress: withRules(list, onChange)})
			origin, other := newEchoOrigin(t), newEchoOrigin(t)
			doomed := []string{"localhost:" + port(origin.addr), other.addr}
			spared := origin.addr // the same address as the first, but by no name
			tunnels := map[string][]*tunnel{}
			for _, kind := range clientKinds {
				c := p.client(t, kind)
				for _, dest := range append(doomed, spared) {
					tun := c.open(t, dest)
					alive(t, tun, kind+" to "+dest)
					tunnels[kind] = append(tunnels[kind], tun)
				}
			}
			replaceFile(t, list, "localhost\n"+other.addr+"\n")
			p.logs.awaitLines(t, "the change of the rules of both handlers", 2, func(l logLine) bool {
				return l.str("msg") == "access rules changed"
			})

			for _, kind := range clientKinds {
				for i, dest := range doomed {
					what := kind + " to " + dest
					if onChange == "keep" {
						alive(t, tunnels[kind][i], what)
						tunnels[kind][i].Close()
					} else {
						ended(t, tunnels[kind][i], what)
						tunnels[kind][i].Close()
					}
					resp, tun := p.client(t, kind).connect(t, dest, "", nil)
					expectError(t, resp, 403, "http_request_denied", "destination_ip_prohibited")
					tun.Close()
				}
				alive(t, tunnels[kind][2], kind+" to "+spared)
				tunnels[kind][2].Close()
			}
			if onChange == "keep" {
				return
			}
			for _, dest := range doomed {
				p.logs.awaitPolicyEnds(t, dest, len(clientKinds))
			}
		})
	}
}

// A bad file ends nothing and opens nothing; the error names file and line.
func TestPolicyChange_BadFile(t *testing.T) {
	checkLeaks(t)
	list := filepath.Join(t.TempDir(), "denied")
	replaceFile(t, list, "other.test\n")
	p := start(t, mode{access: true}, setup{egress: withRules(list, "close")})
	origin := newEchoOrigin(t)
	tun := p.client(t, "h1").open(t, origin.addr)
	replaceFile(t, list, "127.0.0.0/8\n127.0.0.0/33\n")
	p.logs.awaitLines(t, "the bad file, of both handlers", 2, func(l logLine) bool {
		return l.str("level") == "error" && l.str("error") ==
			"acl[0]: "+list+":2: subject '127.0.0.0/33': the length behind the slash is a number from 0 to 32"
	})
	alive(t, tun, "the tunnel")
	tun.Close()
	p.client(t, "h1").open(t, origin.addr).Close()
}

// Tunnels through an upstream end by the rules on names: of their address there
// nothing is known here, also if it is that of the upstream.
func TestPolicyChange_Upstream(t *testing.T) {
	for name, upstream := range map[string]string{
		"squid":      "http://" + peertest.Squid(t, peers.SquidOptions{}).Addr,
		"microsocks": "socks5h://" + peertest.Microsocks(t, peers.MicrosocksOptions{}).Addr,
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			list := filepath.Join(t.TempDir(), "denied")
			replaceFile(t, list, "")
			p := start(t, mode{access: true}, setup{egress: withRules(list, "close") + "upstream " + upstream + "\n"})
			origin, other := newEchoOrigin(t), newEchoOrigin(t)
			c := p.client(t, "h1")
			doomed, spared := c.open(t, "localhost:"+port(origin.addr)), c.open(t, origin.addr)
			literal := c.open(t, other.addr)
			for _, tun := range []*tunnel{doomed, spared, literal} {
				alive(t, tun, "a tunnel")
			}
			_, at, _ := strings.Cut(upstream, "//")
			replaceFile(t, list, "localhost\n"+at+"\n"+other.addr+"\n")
			ended(t, doomed, "the tunnel by name")
			ended(t, literal, "the tunnel to an address")
			alive(t, spared, "the other tunnel")
			for _, host := range []string{"localhost:" + port(origin.addr), other.addr} {
				if l := p.logs.access(t, "CONNECT", host); l.str("egress.close_reason") != "policy" || l.str("egress.path") != "upstream" {
					t.Errorf("logged as %v", l["egress"])
				}
			}
			doomed.Close()
			literal.Close()
			spared.Close()
		})
	}
}

// Of a tunnel for which an upstream was told one of several addresses, that one counts.
func TestPolicyChange_ToldAddress(t *testing.T) {
	checkLeaks(t)
	list := filepath.Join(t.TempDir(), "denied")
	replaceFile(t, list, "127.9.9.9\n") // of the first rule: it is passed over from the beginning
	origin := newEchoOrigin(t)
	up, asked := newSOCKSUpstream(t, origin.addr)
	p := start(t, mode{access: true}, setup{egress: withRules(list, "close") +
		"transport {\n hosts_override two.test 127.9.9.9 127.0.0.1\n}\nupstream socks5://" + up.addr + "\n"})
	tun := p.client(t, "h1").open(t, "two.test:443")
	if got := <-asked; got != "ip:127.0.0.1:443" {
		t.Errorf("the upstream is told %s", got)
	}
	alive(t, tun, "a tunnel to an address that is allowed")
	rules := 0
	change := func(text string) {
		t.Helper()
		rules++
		replaceFile(t, list, text)
		p.logs.awaitLines(t, "rules", 2*rules, func(l logLine) bool { return l.str("msg") == "access rules changed" })
	}
	change("127.9.9.9\n127.9.9.8\n")
	alive(t, tun, "the tunnel, behind a change")
	change("127.0.0.1\n")
	ended(t, tun, "the tunnel whose address is denied now")
	tun.Close()
}

// A reload with other rules ends the tunnels that they forbid, also those that were
// opened when nothing was to be ended, by the first rules and by later ones; a
// reload that fails, or that says keep, ends none.
func TestPolicyChange_Reload(t *testing.T) {
	checkLeaks(t)
	plain, secure, storage := freeAddr(t), freeAddr(t), t.TempDir()
	logs := newLogCapture(t)
	cert, key := proxyCertFiles(t)
	config := func(deny, onChange, more string) string {
		site := "log\negress {\n allow_unauthenticated\n hosts proxy.test\n acl {\n deny " + deny + "\n}\n" + openLoopback +
			"tunnel {\n on_policy_change " + onChange + "\n}\n}\n"
		return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n %s}\nhttps://:%s {\n bind 127.0.0.1\n tls %s %s\n %s}\n%s",
			globals{grace: "5s", storage: storage, more: logs.asDefault("level DEBUG")}, port(plain), site, port(secure), cert, key, site, more)
	}
	load(t, config("nothing.test", "keep", ""))
	p := &proxy{mode: mode{access: true}, plain: plain, secure: secure, logs: logs}
	first, second, third := newEchoOrigin(t), newEchoOrigin(t), newEchoOrigin(t)
	tunnels := map[string][]*tunnel{}
	for _, kind := range clientKinds {
		c := p.client(t, kind)
		for _, o := range []*rawOrigin{first, second, third} {
			tun := c.open(t, o.addr)
			alive(t, tun, kind)
			tunnels[kind] = append(tunnels[kind], tun)
		}
	}
	check := func(when string, gone ...int) {
		t.Helper()
		for _, kind := range clientKinds {
			for i, tun := range tunnels[kind] {
				what := fmt.Sprintf("%s: tunnel %d of %s", when, i, kind)
				switch {
				case tun == nil:
				case len(gone) > 0 && gone[0] == i:
					ended(t, tun, what)
					tun.Close()
					tunnels[kind][i] = nil
				default:
					alive(t, tun, what)
				}
			}
		}
	}

	if err := tryLoad(t, config(first.addr, "keep", "")); err != nil {
		t.Fatal(err)
	}
	check("keep")

	// Provisioned, and then an address is taken: the old configuration stays.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := tryLoad(t, config(first.addr, "close", "http://:"+port(taken.Addr().String())+" {\n bind 127.0.0.1\n}\n")); err == nil {
		t.Fatal("loaded on an address that is taken")
	}
	check("failed reload")

	if err := tryLoad(t, config(first.addr, "close", "")); err != nil {
		t.Fatal(err)
	}
	check("close", 0)
	if err := tryLoad(t, config(first.addr+" "+second.addr, "close", "")); err != nil {
		t.Fatal(err)
	}
	check("close again", 1)
	for _, o := range []*rawOrigin{first, second} {
		logs.awaitPolicyEnds(t, o.addr, len(clientKinds))
	}
	for _, kind := range clientKinds {
		tunnels[kind][2].Close()
	}
}

// A reload with `close` ends the tunnels that the new configuration would not open for
// their users, or whose route denies them now; not those that only what is forgotten of
// their request could deny.
func TestPolicyChange_Refused(t *testing.T) {
	const deny = " to deny\n}\nroute direct\n"
	dest := newEchoOrigin(t)
	host, _, _ := net.SplitHostPort(dest.addr)
	for _, tc := range []struct {
		name, before, after string
		gone                bool
	}{
		{"another user is removed", "basic_auth alice pw\nbasic_auth bob pw\n", "basic_auth alice pw\n", false},
		{"the user is removed", "basic_auth alice pw\nbasic_auth bob pw\n", "basic_auth bob pw\n", true},
		{"another password", "basic_auth alice pw\n", "basic_auth alice other\n", true},
		{"another password of another user", "basic_auth alice pw\nbasic_auth bob pw\n", "basic_auth alice pw\nbasic_auth bob other\n", false},
		{"users have to log in now", "", "basic_auth alice pw\n", true},
		{"nobody has to log in now", "basic_auth alice pw\n", "", false},
		{"the name is denied", "", "route {\n match {\n host " + host + "\n }\n" + deny, true},
		{"another name is denied", "", "route {\n match {\n host other.test\n }\n" + deny, false},
		{"no route matches", "", "route {\n match {\n not {\n client_ip 127.0.0.1\n }\n }\n to direct\n}\n", true},
		{"other clients are denied", "", "route {\n match {\n not {\n client_ip 127.0.0.1\n }\n }\n" + deny, false},
		{"the peer is denied", "", "route {\n match {\n remote_ip 127.0.0.0/8\n method CONNECT\n protocol http/1.1\n }\n" + deny, true},
		{"another protocol is denied", "", "route {\n match {\n protocol https\n }\n" + deny, false},
		{"the user is denied", "basic_auth alice pw\n", "basic_auth alice pw\nroute {\n match {\n vars {http.auth.user.id} alice\n }\n" + deny, true},
		{"another user is denied", "basic_auth alice pw\n", "basic_auth alice pw\nroute {\n match {\n vars {http.auth.user.id} bob\n }\n" + deny, false},
		{"who knows", "", "route {\n match {\n header X-A *\n }\n" + deny, false},
		{"who knows, and denied anyhow", "", "route {\n match {\n header X-A *\n }\n to deny\n}\nroute deny\n", true},
		{"who knows what is allowed", "", "route {\n match {\n header X-A *\n }\n to direct\n}\nroute deny\n", false},
		{"an earlier route takes it", "", "route {\n match {\n host " + host + "\n }\n to direct\n}\nroute deny\n", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			config := func(users string) setup {
				if !strings.HasPrefix(users, "basic_auth") {
					users = "allow_unauthenticated\n" + users
				}
				return setup{egress: "hosts proxy.test\n" + users + openLoopback + "tunnel {\n on_policy_change close\n}\n"}
			}
			p := start(t, mode{access: true}, config(tc.before))
			header := http.Header{}
			if tc.before != "" {
				header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("alice:pw")))
			}
			resp, tun := p.client(t, "h1").connect(t, dest.addr, "", header)
			if resp.StatusCode != 200 {
				t.Fatal(resp.Status)
			}
			alive(t, tun, "the tunnel")
			p.reload(t, config(tc.after))
			if tc.gone {
				ended(t, tun, "the tunnel")
				p.logs.awaitPolicyEnds(t, dest.addr, 1)
			} else {
				alive(t, tun, "the tunnel behind a reload")
			}
			tun.Close()
			resp, tun = p.client(t, "h1").connect(t, dest.addr, "", header)
			if refused := resp.StatusCode != 200; tc.gone && !refused {
				t.Errorf("a new tunnel is opened: %s", resp.Status)
			}
			tun.Close()
		})
	}
}
