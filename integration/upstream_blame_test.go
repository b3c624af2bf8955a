package integration

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// This file contains the scenarios of who is to blame (docs/health.md).

// Names that do not exist, asked for through real upstreams, are no fault of those:
// all of them stay, the circuits of the names open, and other destinations work.
func TestBlame_NamesThatDoNotExist(t *testing.T) {
	checkLeaks(t)
	names := emptyNameServer(t)
	upstreams, locals := "upstreams default {\nlb_policy round_robin\n", map[string]bool{}
	for i := range 3 {
		local := fmt.Sprintf("127.0.0.%d", 11+i)
		locals[local] = true
		u := peertest.Squid(t, peers.SquidOptions{Config: []string{
			"tcp_outgoing_address " + local, "dns_nameservers " + names,
		}})
		upstreams += "upstream http://" + u.Addr + "\n"
	}
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + upstreams + "}\n", global: events.global()})
	origin := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, hostOf(r.RemoteAddr)) })
	c := p.client(t, "h1")

	statuses := map[int]int{}
	for range 100 {
		resp, tun := c.connect(t, "connect.invalid:443", "", nil)
		statuses[resp.StatusCode]++
		if resp.StatusCode == 503 {
			expectError(t, resp, 503, "destination_unavailable")
			if resp.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		} else {
			expectError(t, resp, 502, "dns_error", "destination_unavailable") // Squid does not tell for CONNECT
		}
		tun.Close()
	}
	t.Logf("CONNECT: %v", statuses)
	if statuses[502] < 5 || statuses[503] < 80 {
		t.Errorf("CONNECT was answered with %v: the circuit of the destination did not open", statuses)
	}
	ours := 0
	clear(statuses)
	for range 100 {
		resp := c.get(t, "http://get.invalid/")
		statuses[resp.StatusCode]++
		if resp.Header.Get("Retry-After") != "" {
			expectError(t, resp.Response, 503, "destination_unavailable")
			ours++
		}
	}
	t.Logf("GET: %v, %d of them given a pause", statuses, ours)
	if ours < 80 {
		t.Errorf("of 100 GETs %d were given a pause: the circuit of the destination did not open", ours)
	}
	counts := map[string]int{}
	for range 30 {
		counts[c.get(t, origin.URL).body]++
	}
	for local := range locals {
		if counts[local] != 10 {
			t.Errorf("afterwards requests left over %v, want all three", counts)
		}
	}
	events.expect(t, p, nil)
}

// emptyNameServer is a name server that knows no name. Squid asks on port 53 only.
func emptyNameServer(t *testing.T) (ip string) {
	t.Helper()
	const addr = "127.0.0.153:53"
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skipf("port 53 is not for us: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1500); ; {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if n >= 12 {
				b[2], b[3] = 0x81, 0x83 // an answer: NXDOMAIN
				_, _ = pc.WriteTo(b[:n], from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return hostOf(addr)
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

// An upstream with a dead uplink answers 502 to every CONNECT. That blames nobody;
// that five distinct destinations fail makes it suspect, and a check at once, or
// that they answer on another path, takes it out.
func TestBlame_DeadUplink(t *testing.T) {
	for _, tc := range []struct{ name, words, reason string }{
		{"check", "lb_policy first\nlb_retries off\nhealth_check connect %s\nhealth_interval 1h\n", "suspicion_check_failed"},
		{"other path", "lb_policy first\n", "suspicion_other_path"},
		{"other path, 500", "lb_policy first\n", "suspicion_other_path"}, // as tinyproxy says it
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			bad, good := newScriptedUpstream(t, "bad"), newScriptedUpstream(t, "good")
			target := newEchoOrigin(t)
			words := tc.words
			if tc.name == "check" {
				words = fmt.Sprintf(words, target.addr)
			}
			events := newTransitions(t)
			p := start(t, mode{}, setup{egress: usual + groupOf(words, bad, good), global: events.global()})
			if tc.name == "check" {
				awaitAsked(t, bad, target.addr)
				awaitAsked(t, good, target.addr)
			}
			bad.asked()
			bad.behave(answering(502))
			if strings.HasSuffix(tc.name, "500") {
				bad.behave(answering(500))
			}
			c := p.client(t, "h1")
			for i := range 5 {
				resp, tun := c.connect(t, newEchoHost(t, i).addr, "", nil)
				switch {
				case tc.name == "check":
					expectError(t, resp, 502, "destination_unavailable")
				case resp.StatusCode != 200:
					t.Errorf("%d: status %d", i, resp.StatusCode)
				}
				tun.Close()
			}
			events.await(t, bad, "circuit_open")
			if n := bad.askedFor(target.addr); tc.name == "check" && n != 1 {
				t.Errorf("%d checks, want one at once", n)
			}
			for range 10 {
				c.open(t, newEchoOrigin(t).addr).Close()
			}
			if n := len(bad.asked()); n > 0 {
				t.Errorf("asked %d times while it was out", n)
			}
			events.expect(t, p, map[*scriptedUpstream][]string{bad: {"circuit_open"}, good: nil})
			if got := p.logs.transitionsOf(bad.url())[0].str("reason"); got != tc.reason {
				t.Errorf("reason %q, want %q", got, tc.reason)
			}
		})
	}
}

// awaitAsked waits until an upstream was asked for a host.
func awaitAsked(t *testing.T, u *scriptedUpstream, host string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case r := <-u.seen:
			if r.Host == host {
				return
			}
		case <-deadline:
			t.Fatalf("%s was not asked for %s", u.name, host)
		}
	}
}

// withCredentials gives all upstreams of a group credentials.
func withCredentials(group string) string {
	return strings.ReplaceAll(group, "http://", "http://us:secret@")
}

// An upstream that refuses our credentials for all it is asked for is out soon, is asked few
// times until then, and the client hears nothing of it: others serve.
func TestBlame_Credentials(t *testing.T) {
	checkLeaks(t)
	refuses, good := newScriptedUpstream(t, "refuses"), newScriptedUpstream(t, "good")
	refuses.behave(answering(407, `Proxy-Authenticate: Basic realm="upstream"`))
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + withCredentials(groupOf("lb_policy round_robin\ncircuit {\nopen_for 1m\n}\n", refuses, good)), global: events.global()})
	origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	hosts := twoHostsOf(newEchoOrigin(t))
	c := p.client(t, "h1")
	expectOK := func(resp *http.Response) {
		if resp.StatusCode != 200 || resp.Header.Get("Proxy-Authenticate") != "" {
			t.Errorf("status %d, header %v", resp.StatusCode, resp.Header)
		}
	}
	events.until(t, func(n int) {
		resp, tun := c.connect(t, hosts[n%len(hosts)], "", nil)
		expectOK(resp)
		tun.Close()
	})
	for range 4 {
		expectOK(c.get(t, origin.URL).Response)
	}
	tunnels := 0
	for _, r := range refuses.asked() {
		if r.Method == http.MethodConnect {
			tunnels++
		}
	}
	if tunnels < 3 || tunnels > 12 {
		t.Errorf("asked for %d tunnels", tunnels)
	}
	events.expect(t, p, map[*scriptedUpstream][]string{refuses: {"auth_failed"}, good: nil})
}

// The same for the only upstream there is, and for many requests at once: the client
// gets an error of ours, and no challenge that is not ours.
func TestBlame_CredentialsOfTheOnlyOne(t *testing.T) {
	checkLeaks(t)
	u := newScriptedUpstream(t, "refuses")
	u.behave(answering(407, `Proxy-Authenticate: Basic realm="upstream"`))
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + withCredentials(groupOf("circuit {\nopen_for 1m\n}\n", u)), global: events.global()})
	hosts := twoHostsOf(newEchoOrigin(t))
	events.until(t, func(n int) {
		var clients []*rawConn
		for range 10 {
			raw := p.dialPlain(t)
			raw.send("CONNECT " + hosts[n%len(hosts)] + " HTTP/1.1\r\nHost: x\r\n\r\n")
			clients = append(clients, raw)
		}
		for _, raw := range clients {
			resp := raw.response("CONNECT")
			if resp.StatusCode != 500 && resp.StatusCode != 503 || resp.Header.Get("Proxy-Authenticate") != "" {
				t.Errorf("status %d, header %v", resp.StatusCode, resp.Header)
			}
		}
	})
	if n := len(u.asked()); n < 3 || n > 12*10 {
		t.Errorf("asked %d times, want a few and those under way", n)
	}
	resp, tun := p.client(t, "h1").connect(t, newEchoOrigin(t).addr, "", nil)
	expectError(t, resp, 503, "destination_unavailable")
	tun.Close()
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"auth_failed"}})
}

// twoHostsOf are two names of the same origin.
func twoHostsOf(o *rawOrigin) [2]string {
	_, port, _ := strings.Cut(o.addr, ":")
	return [2]string{o.addr, "localhost:" + port}
}

// until asks again and again, until there is an event.
func (e *transitions) until(t *testing.T, ask func(n int)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for n := 0; ; n++ {
		all, changed := e.so()
		if len(all) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no event")
		}
		ask(n)
		select { // there is no use in asking more often than is let through
		case <-changed:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// One client that asks for many sites which the upstreams refuse to these credentials takes
// none of them out, and is kept away before it has tried for long.
func TestBlame_CredentialsForOneClientsSites(t *testing.T) {
	checkLeaks(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	refuse := answering(407, `Proxy-Authenticate: Basic realm="upstream"`)
	for _, u := range []*scriptedUpstream{one, two} {
		u.behave(func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasPrefix(r.Host, "members") && refuse(w, r)
		})
	}
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: "hosts proxy.test\nbasic_auth busy \"secret of busy\"\nbasic_auth other \"secret of other\"\n" + openLoopback +
			withCredentials(groupOf("lb_policy round_robin\ncircuit {\nopen_for 1m\n}\n", one, two)),
		global: events.global(),
	})
	echo := newEchoOrigin(t)
	connect := func(user, target string) int {
		resp, tun := p.client(t, "h1").connect(t, target, "", http.Header{"Proxy-Authorization": {basic(user, "secret of "+user)}})
		tun.Close()
		return resp.StatusCode
	}
	serves := func(when string) {
		for range 4 { // both upstreams
			if got := connect("other", echo.addr); got != 200 {
				t.Errorf("another client, %s: status %d", when, got)
			}
		}
	}
	serves("before")
	for n := range 60 {
		if got := connect("busy", fmt.Sprintf("members%d.test:443", n)); got != 500 && got != 503 {
			t.Errorf("a site that is refused: status %d", got)
		}
	}
	serves("after")
	for _, u := range []*scriptedUpstream{one, two} {
		n := 0
		for _, r := range u.asked() {
			if strings.HasPrefix(r.Host, "members") {
				n++
			}
		}
		if n > 25 {
			t.Errorf("%s was asked %d times with credentials that it refuses", u.name, n)
		}
	}
	events.expect(t, p, map[*scriptedUpstream][]string{one: nil, two: nil})
}

// An exchange's 407 may be the origin's, relayed: it takes no upstream out, in no quiet
// moment and whether there are credentials or not.
func TestBlame_ChallengesOfAnOrigin(t *testing.T) {
	for _, credentials := range []string{"", "us:secret@"} {
		for _, method := range []string{"GET", "POST"} {
			for _, fields := range []string{"", "Proxy-Authenticate: Basic realm=x\r\n"} {
				t.Run(credentials+method+fields[:min(len(fields), 5)], func(t *testing.T) {
					checkLeaks(t)
					a, b := newScriptedUpstream(t, "a"), newScriptedUpstream(t, "b")
					events := newTransitions(t)
					p := start(t, mode{}, setup{
						egress: usual + "upstreams default {\nupstream http://" + credentials + a.addr + "\nupstream http://" + credentials + b.addr + "\nlb_policy round_robin\n}\nroute default\n",
						global: events.global(),
					})
					evil := newRawOrigin(t, func(oc *originConn) {
						for {
							oc.request()
							oc.send("HTTP/1.1 407 x\r\n" + fields + "Content-Length: 0\r\n\r\n")
						}
					})
					c, good := p.client(t, "h1"), okOrigin(t)
					for range 9 { // it is kept away later
						expectError(t, c.do(t, c.newRequest(t, method, evil.url("/"), nil)).Response, 500, "proxy_configuration_error")
					}
					for range 20 {
						c.do(t, c.newRequest(t, method, evil.url("/"), nil))
					}
					for range 4 {
						c.get(t, good.URL).expect(t, 200, "ok")
					}
					events.expect(t, p, nil)
				})
			}
		}
	}
}

// Answers of the upstream and what they mean to it: six of each, through an upstream
// that is not the only one, open its circuit or do not.
func TestBlame_Table(t *testing.T) {
	for _, tc := range []struct {
		name    string
		behaves behaviour
		event   string // of the upstream, "" for none
		status  int    // for the client …
		until   int    // … of as many requests; those behind go elsewhere (1: some may)
	}{
		{"end of stream before the reply", closing, "circuit_open", 502, 5},
		{"internal error", answering(502, "Proxy-Status: parent; error=proxy_internal_error"), "circuit_open", 502, 5},
		{"garbage", garbage, "circuit_open", 502, 5},
		{"dns", answering(502, "Proxy-Status: parent; error=dns_error"), "", 502, 6},
		{"refused", answering(503, "Proxy-Status: parent; error=connection_refused"), "", 502, 6},
		{"timeout", answering(504, "Proxy-Status: parent; error=connection_timeout"), "", 504, 6},
		{"squid", answering(503, "X-Squid-Error: ERR_CONNECT_FAIL 111"), "", 502, 6},
		{"gateway", answering(502), "", 502, 6},
		{"no proxy", answering(405), "", 502, 6},
		{"forbidden", answering(403), "", 403, 6},
		{"overload", answering(503, "Retry-After: 1"), "", 503, 1},
		{"too many", answering(429, "Retry-After: 1"), "", 503, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			u, spare := newScriptedUpstream(t, "judged"), newScriptedUpstream(t, "spare")
			u.behave(tc.behaves)
			events := newTransitions(t)
			p := start(t, mode{}, setup{
				egress: usual + "destination_circuit off\n" + groupOf("lb_policy first\nlb_retries off\n", u, spare),
				global: events.global(),
			})
			c := p.client(t, "h1")
			echo := newEchoOrigin(t)
			for i := range 6 {
				resp, tun := c.connect(t, echo.addr, "", nil)
				want := tc.status
				if tc.until > 1 && i >= tc.until {
					want = 200 // the other one serves
				}
				if spared := tc.until == 1 && resp.StatusCode == 200; resp.StatusCode != want && !spared {
					t.Errorf("%d: status %d (%s), want %d", i, resp.StatusCode, resp.Header.Get("Proxy-Status"), want)
				}
				tun.Close()
			}
			want := map[*scriptedUpstream][]string{u: nil, spare: nil}
			if tc.event != "" {
				want[u] = []string{tc.event}
			}
			events.expect(t, p, want)
		})
	}
}

// A failure that the destination has caused, and the upstream has passed on, takes no
// upstream out, whichever way it was passed on.
func TestBlame_FailuresOfTheOrigin(t *testing.T) {
	origins := map[string]func(oc *originConn){
		"407": func(oc *originConn) {
			oc.send("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
		},
		"internal error": func(oc *originConn) {
			oc.send("HTTP/1.1 502 x\r\nProxy-Status: x; error=proxy_internal_error\r\nContent-Length: 0\r\n\r\n")
		},
		"end":       func(*originConn) {},
		"reset":     func(oc *originConn) { oc.reset() },
		"garbage":   func(oc *originConn) { oc.send("SSH-2.0-OpenSSH_9.2\r\n\r\n") },
		"half head": func(oc *originConn) { oc.send("HTTP/1.1 200 OK\r\nContent-Le") },
	}
	for upstream, upstreams := range map[string]func() string{
		"squid": func() string {
			return "upstream http://" + peertest.Squid(t, peers.SquidOptions{}).Addr + "\n"
		},
		"tinyproxy": func() string {
			return "upstream http://" + peertest.Tinyproxy(t, peers.TinyproxyOptions{}).Addr + "\n"
		},
	} {
		group := "upstreams default {\nlb_policy round_robin\n" + upstreams() + upstreams() + "}\n"
		for name, answer := range origins {
			t.Run(upstream+"/"+name, func(t *testing.T) {
				checkLeaks(t)
				events := newTransitions(t)
				p := start(t, mode{}, setup{egress: usual + "destination_circuit off\n" + group, global: events.global()})
				good := okOrigin(t)
				bad := newRawOrigin(t, func(oc *originConn) {
					oc.request()
					answer(oc)
					oc.Close()
				})
				c := p.client(t, "h1")
				for range 4 {
					c.get(t, good.URL).expect(t, 200, "ok")
				}
				for range 12 {
					resp := c.get(t, bad.url("/"))
					if resp.StatusCode == 407 || resp.Header.Get("Proxy-Authenticate") != "" {
						t.Errorf("status %d, header %v", resp.StatusCode, resp.Header)
					}
				}
				for range 4 {
					c.get(t, good.URL).expect(t, 200, "ok")
				}
				events.expect(t, p, nil)
			})
		}
	}
}

// garbage answers what is no HTTP.
func garbage(w http.ResponseWriter, _ *http.Request) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n\r\n"))
		conn.Close()
	}
	return true
}

// An upstream whose password was wrong from the start, where some sites need none, is not
// convicted: but it is asked few times for what it refuses, and others serve that.
func TestBlame_CredentialsAreMostlyRefused(t *testing.T) {
	checkLeaks(t)
	refuses, good := newScriptedUpstream(t, "refuses"), newScriptedUpstream(t, "good")
	refuse := answering(407, `Proxy-Authenticate: Basic realm="upstream"`)
	refuses.behave(func(w http.ResponseWriter, r *http.Request) bool {
		return !strings.HasPrefix(r.Host, "free") && refuse(w, r) || answering(200)(w, r)
	})
	good.behave(answering(200))
	events := newTransitions(t)
	users, egress := []string{"a", "b", "c", "d"}, "hosts proxy.test\n"
	for _, u := range users {
		egress += fmt.Sprintf("basic_auth %s \"secret of %s\"\n", u, u)
	}
	p := start(t, mode{}, setup{
		egress: egress + openLoopback + withCredentials(groupOf("lb_policy round_robin\n", refuses, good)),
		global: events.global(),
	})
	began := time.Now()
	ask := func(user, target string) {
		resp, tun := p.client(t, "h1").connect(t, target, "", http.Header{"Proxy-Authorization": {basic(user, "secret of "+user)}})
		tun.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: status %d", target, resp.StatusCode)
		}
	}
	for n := range 600 {
		user := users[n%len(users)]
		if n%12 < 4 { // both
			ask(user, "free.test:443")
			ask(user, "free.test:443")
		}
		ask(user, fmt.Sprintf("site%d.test:443", n))
	}
	refused := 0
	for _, r := range refuses.asked() {
		if !strings.HasPrefix(r.Host, "free") {
			refused++
		}
	}
	if most := 60 + int(time.Since(began)/time.Second) + 1; refused > most {
		t.Errorf("asked %d times for what it refuses, want at most %d", refused, most)
	}
	p.logs.wait(t, "that others are asked first", func(l logLine) bool { return strings.Contains(l.str("msg"), "others are asked for these first") })
	events.expect(t, p, map[*scriptedUpstream][]string{refuses: nil, good: nil})
}
