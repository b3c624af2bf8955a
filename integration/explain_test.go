package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// asCaddy makes this binary the command caddy: tests of commands run it again.
const asCaddy = "EGRESS_TEST_CADDY"

func init() {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
}

// secrets stand in the configurations below, and nowhere else.
var secrets = []string{"hunter2", "s3cret", "team-token"}

// explain runs `caddy egress explain` and returns its output and exit code.
func explain(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, append([]string{"egress", "explain"}, args...)...)
}

// command runs `caddy` and returns its output and exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asCaddy+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		if strings.Contains(out.String()+errs.String(), secret) {
			t.Errorf("%v: the output has the secret %s:\n%s%s", args, secret, &out, &errs)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Values in a text that differ from run to run.
var (
	openFor = regexp.MustCompile(`\(for [0-9.]+s\)`)
	latency = regexp.MustCompile(`; latency [0-9.a-zµ]+`)
)

// expectText compares a text with the wanted one, in which addresses have names.
func expectText(t *testing.T, got, want string, names ...string) {
	t.Helper()
	got = strings.NewReplacer(names...).Replace(got)
	got = latency.ReplaceAllString(openFor.ReplaceAllString(got, "(for a while)"), "")
	if got != strings.TrimPrefix(want, "\n") {
		t.Errorf("got:\n%s\nwant:%s", got, want)
	}
}

// loadWithAdmin runs a Caddyfile whose admin endpoint is on, until the end of the test.
// It stands on its own because the harness has it off.
func loadWithAdmin(t *testing.T, global, sites string) (admin string) {
	t.Helper()
	admin = freeAddr(t)
	t.Cleanup(func() {
		if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
			t.Error(err)
		}
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	load(t, globals{admin: admin, grace: "2s", storage: t.TempDir(), more: global}.String()+"\n"+sites)
	return admin
}

// connectProxy is an upstream proxy that lets every tunnel stand, and leads nowhere.
func connectProxy(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(c *originConn) {
		if c.head() == "" {
			return
		}
		c.send("HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
}

const explainSite = `http://:%s {
	bind 127.0.0.1
	@lan host *.lan.example
	egress {
		basic_auth alice s3cret
		session_from user_suffix -session-
		ports 1-24 80 443 1024-65535
		acl {
			deny *.internal.example 192.0.2.0/24
			allow 127.0.0.9
		}
		upstreams parents {
			upstream http://bob:hunter2@%s
			upstream http://%s {
				weight 3
			}
			lb_policy first
			%s
		}
		transport {
			hosts_override mixed.example 127.0.0.9 10.1.2.3
			hosts_override dark.example 10.1.2.3
			hosts_override doc.example 192.0.2.7
			hosts_override x.lan.example 127.0.0.9
			resolvers 127.0.0.1:1
		}
		route @lan {
			to parents fallback direct
		}
		route {
			match {
				header X-Team team-token
			}
			to deny
		}
		route direct
	}
}
`

// The process that runs is asked: what it tells of upstreams is how they are now, and
// nothing changes by it.
func TestExplain_Running(t *testing.T) {
	checkLeaks(t)
	plain, dead := freeAddr(t), refusedAddr(t)
	alive := connectProxy(t)
	p := &proxy{plain: plain, logs: newLogCapture(t)}
	admin := loadWithAdmin(t,
		p.logs.asDefault("level DEBUG"),
		fmt.Sprintf(explainSite, port(plain), dead, alive.addr, "circuit {\n consecutive_failures 1\n}"))
	names := []string{plain, "PROXY", dead, "DEAD", alive.addr, "ALIVE"}
	ask := func(args ...string) (string, int) {
		t.Helper()
		out, errs, code := explain(t, append([]string{"--address", admin}, args...)...)
		if errs != "" {
			t.Errorf("%v: stderr: %s", args, errs)
		}
		return out, code
	}

	out, code := ask("--user", "alice", "x.lan.example:443")
	expectText(t, out, `
request       CONNECT x.lan.example:443 (tunnel)
handler       PROXY#1
client        127.0.0.1, user alice
login         the user is taken as given; no password was checked
rules         allowed: no rule matches it
route         routes[0]: to parents, else direct (matches host ["*.lan.example"])
path          parents: allowed
  name        resolved by the upstream; no rule matches it
  circuit     closed
  policy      first
  upstream    http://DEAD: not checked; priority 0, weight 1; 0 exchanges, 0 tunnels
  upstream    http://ALIVE: not checked; priority 0, weight 3; 0 exchanges, 0 tunnels
  next        http://DEAD
fallback      direct: allowed
  address     127.0.0.9 allowed: acl[1]: allow 127.0.0.9
  circuit     closed
verdict       allowed
`, names...)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if alive.count() > 0 {
		t.Error("the upstream was dialed")
	}

	// A tunnel finds out that the first is dead, and stays open through the second.
	conn := p.dialPlain(t)
	conn.send("CONNECT x.lan.example:443 HTTP/1.1\r\nHost: x.lan.example:443\r\n" +
		"Proxy-Authorization: Basic YWxpY2U6czNjcmV0\r\n\r\n")
	if resp := conn.responseHead("CONNECT"); resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %s", resp.Status)
	}
	out, _ = ask("--user", "alice-session-7", "--client-ip", "203.0.113.9", "x.lan.example:443")
	expectText(t, out, `
request       CONNECT x.lan.example:443 (tunnel)
handler       PROXY#1
client        203.0.113.9, user alice, session 7
login         the user is taken as given; no password was checked
rules         allowed: no rule matches it
route         routes[0]: to parents, else direct (matches host ["*.lan.example"])
path          parents: allowed
  name        resolved by the upstream; no rule matches it
  circuit     closed
  policy      first
  upstream    http://ALIVE: not checked; priority 0, weight 3; 0 exchanges, 1 tunnels
  upstream    http://DEAD: circuit open (for a while); priority 0, weight 1; 0 exchanges, 0 tunnels
  next        http://ALIVE
fallback      direct: allowed
  address     127.0.0.9 allowed: acl[1]: allow 127.0.0.9
  circuit     closed
verdict       allowed
`, names...)
	if n := alive.count(); n != 1 {
		t.Errorf("%d connections to the upstream, not the one of the tunnel", n)
	}
	conn.Close()
}

// What is denied says by which rule, in words and in the exit code.
func TestExplain_Denied(t *testing.T) {
	checkLeaks(t)
	plain := freeAddr(t)
	admin := loadWithAdmin(t, "", fmt.Sprintf(explainSite, port(plain), refusedAddr(t), refusedAddr(t), ""))
	for _, tc := range []struct {
		args    string
		code    int
		verdict string
	}{
		{"http://mixed.example/", 2, "denied (407): proxy authentication required: no user was given"},
		{"--user bob http://mixed.example/", 2, "denied (407): proxy authentication required: there is no user 'bob'"},
		{"--user alice http://mixed.example/", 0, "allowed"},
		{"--user alice dark.example:443", 2, "denied (403): default deny: private"},
		{"--user alice doc.example:443", 2, "denied (403): acl[0]: deny 192.0.2.0/24"},
		{"--user alice http://a.internal.example/", 2, "denied (403): acl[0]: deny *.internal.example"},
		{"--user alice mixed.example:25", 2, "denied (403): ports (allowed_ports in JSON): 25 is not in 1-24, 80, 443, 1024-65535"},
		{"--user alice -H X-Team:team-token mixed.example:443", 2, "denied (403): destination is not allowed: route 2 (header X-Team) denies it"},
		{"--user alice 127.0.0.9:" + port(admin), 0, "allowed"},
		{"--user alice 127.0.0.1:" + port(admin), 2, "denied (403): default deny: loopback"},
		{"--user alice 2130706433:80", 2, "denied (403): default deny: loopback"},
		{"--user alice bob:hunter2@a.example:443", 2, "denied (400): malformed request target: invalid destination: it has user information ('@')"},
		{"--user alice nowhere.invalid:80", 3, "unavailable (502): lookup nowhere.invalid: "},
		{"--user alice --header Via:1.1 http://mixed.example/", 0, "allowed"},
	} {
		out, errs, code := explain(t, append([]string{"--address", admin}, strings.Fields(tc.args)...)...)
		_, verdict, _ := strings.Cut(out, "verdict       ")
		if code != tc.code || !strings.HasPrefix(verdict, tc.verdict) || errs != "" {
			t.Errorf("%s: exit code %d, %s%s\nwant %d, %s", tc.args, code, out, errs, tc.code, tc.verdict)
		}
	}
}

// A file is asked without anything being started: no upstream is dialed, none is
// checked, nothing listens.
func TestExplain_Config(t *testing.T) {
	checkLeaks(t)
	plain := freeAddr(t)
	one, two, listed := connectProxy(t), connectProxy(t), connectProxy(t)
	dir := t.TempDir()
	list := filepath.Join(dir, "upstreams.txt")
	if err := os.WriteFile(list, []byte("http://carol:hunter2@"+listed.addr+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "proxy.conf")
	text := fmt.Sprintf(explainSite, port(plain), one.addr, two.addr,
		"file "+list+"\nhealth_check connect example.com:443")
	text = "{\nadmin off\nauto_https off\nlog {\n output file " + filepath.Join(dir, "caddy.log") + "\n}\n}\n" +
		strings.Replace(text, "weight 3", "weight 3\nstandby 2", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{plain, "PROXY", one.addr, "ONE", two.addr, "TWO", listed.addr, "LISTED"}
	out, _, code := explain(t, "--config", file, "--adapter", "caddyfile", "--user", "alice", "X.lan.example:443")
	expectText(t, out, `
request       CONNECT x.lan.example:443 (tunnel)
handler       PROXY#1
client        127.0.0.1, user alice
login         the user is taken as given; no password was checked
rules         allowed: no rule matches it
route         routes[0]: to parents, else direct (matches host ["*.lan.example"])
path          parents: allowed
  name        resolved by the upstream; no rule matches it
  policy      first
  upstream    http://ONE: unknown (not running); priority 0, weight 1
  upstream    http://TWO: unknown (not running); priority 0, weight 3
  upstream    http://LISTED: unknown (not running); priority 0, weight 1
fallback      direct: allowed
  address     127.0.0.9 allowed: acl[1]: allow 127.0.0.9
note          the configuration is not running: the use of limits, circuits and the addresses of Caddy's own listeners are not known
verdict       allowed
`, names...)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	out, _, code = explain(t, "--config", file, "--adapter", "caddyfile", "--user", "alice", "mixed.example:443")
	expectText(t, out, `
request       CONNECT mixed.example:443 (tunnel)
handler       PROXY#1
client        127.0.0.1, user alice
login         the user is taken as given; no password was checked
rules         allowed: rules on addresses decide
not           routes[0]: host ["*.lan.example"]
not           routes[1]: header X-Team
route         routes[2]: to direct (matches every request)
path          direct: allowed
  address     127.0.0.9 allowed: acl[1]: allow 127.0.0.9
  address     10.1.2.3 denied: default deny: private
note          the configuration is not running: the use of limits, circuits and the addresses of Caddy's own listeners are not known
verdict       allowed
`, names...)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "caddy.log")); !os.IsNotExist(err) {
		t.Errorf("the log of the configuration was opened: %v", err)
	}
	// The first whom a listener accepts is whom it was dialed by first.
	for _, o := range []*rawOrigin{one, two, listed} {
		c, err := net.Dial("tcp", o.addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := await(t, o.conns, "a connection").RemoteAddr().String(); got != c.LocalAddr().String() {
			t.Errorf("%s was dialed", o.addr)
		}
		c.Close()
	}
}

// What cannot be answered is an error that says so.
func TestExplain_Errors(t *testing.T) {
	checkLeaks(t)
	one, two := freeAddr(t), freeAddr(t)
	site := "http://:%s {\n bind 127.0.0.1\n egress {\n allow_unauthenticated\n }\n}\n"
	admin := loadWithAdmin(t, "", fmt.Sprintf(site+site, port(one), port(two)))
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("{\nadmin off\n}\nhttp://:8080 {\n respond hello\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ args, want string }{
		{"", "accepts 1 arg(s), received 0"},
		{"--address " + admin + " a.example:443", "say which egress handler is meant: "},
		{"--address " + admin + " --handler :1 a.example:443", "there is no egress handler ':1'; there are: "},
		{"--address " + admin + " --handler " + one + " --client-ip x a.example:443", "client_ip: 'x' is not an IP address"},
		{"--address " + admin + " --handler " + one + " --session x a.example:443", "session: logins have none here (auth.session is not configured)"},
		{"--address " + admin + " --handler " + one + " --method GET a.example:443", "method: GET takes a URL, not host:port"},
		{"--address " + admin + " --header x a.example:443", "--header: write 'Name: value'"},
		{"--address " + refusedAddr(t) + " a.example:443", "--config asks a file instead"},
		{"--address " + admin + " --adapter x a.example:443", "--adapter is for the file that --config names"},
		{"--address " + admin + " --config " + file + " a.example:443", "--address is of a Caddy that runs, and --config asks a file"},
		{"--config " + file + " a.example:443", "there is no egress handler in the configuration"},
		{"--config " + file + ".missing a.example:443", "no such file"},
	} {
		out, errs, code := explain(t, strings.Fields(tc.args)...)
		if code != 1 || out != "" || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit code %d, %s%s\nwant %s", tc.args, code, out, errs, tc.want)
		}
	}
	out, _, code := explain(t, "--address", admin, "--handler", two, "--json", "198.41.0.4:443")
	var e struct{ Handler, Verdict string }
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != 0 || e.Handler != two+"#1" || e.Verdict != "allowed" {
		t.Errorf("%v, exit code %d: %s", err, code, out)
	}
}

// The endpoint takes one kind of request and says what is wrong with others.
func TestExplain_Endpoint(t *testing.T) {
	checkLeaks(t)
	plain := freeAddr(t)
	admin := loadWithAdmin(t, "", "http://:"+port(plain)+" {\n bind 127.0.0.1\n egress {\n allow_unauthenticated\n }\n}\n")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tc := range []struct {
		method, query, body string
		status              int
		want                string
	}{
		{"POST", "", `{"target":"10.0.0.1:443"}`, 200, `"rule":"default deny: private"`},
		{"POST", "?handler=" + plain, `{"url":"http://198.41.0.4/"}`, 200, `"verdict":"allowed"`},
		{"GET", "", ``, 405, `{"error":"method GET is not allowed at /egress/explain; allowed: POST"}`},
		{"POST", "", ``, 400, `{"error":"request to explain: EOF"}`},
		{"POST", "", `{"host":"a"}`, 400, `{"error":"request to explain: json: unknown field \"host\""}`},
		{"POST", "", `{} {}`, 400, `{"error":"request to explain: something follows the JSON object"}`},
		{"POST", "", `{}`, 400, `{"error":"neither url nor target says where the request goes"}`},
		{"POST", "?handler=x", `{"target":"a.example:1"}`, 404, `{"error":"there is no egress handler 'x'; there are: ` + plain + `#1"}`},
		{"POST", "", `{"user":"` + strings.Repeat("x", 1<<20) + `"}`, 400, `{"error":"request to explain: http: request body too large"}`},
	} {
		r, err := http.NewRequest(tc.method, "http://"+admin+"/egress/explain"+tc.query, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s %s %.60s: %d %s, %v; want %d %s", tc.method, tc.query, tc.body, resp.StatusCode, body, err, tc.status, tc.want)
		}
	}
}

// Over a reload that fails, and over one that does not, the handler that serves is the
// one that is asked.
func TestExplain_Reload(t *testing.T) {
	checkLeaks(t)
	plain := freeAddr(t)
	admin := freeAddr(t)
	t.Cleanup(func() {
		if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
			t.Error(err)
		}
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	config := func(egress string) string {
		return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n egress {\n allow_unauthenticated\n%s\n }\n}\n",
			globals{admin: admin}, port(plain), egress)
	}
	verdict := func() string {
		t.Helper()
		out, errs, _ := explain(t, "--address", admin, "198.41.0.4:443")
		_, v, _ := strings.Cut(out, "verdict       ")
		return v + errs
	}
	if err := tryLoad(t, config("")); err != nil {
		t.Fatal(err)
	}
	if v := verdict(); v != "allowed\n" {
		t.Error(v)
	}
	// Its servers cannot start, after its handlers were provisioned.
	if err := tryLoad(t, config("ports 80")+"http://:"+port(freeAddr(t))+" {\n bind 192.0.2.1\n egress {\n allow_unauthenticated\n }\n}\n"); err == nil {
		t.Fatal("a listener on a foreign address")
	}
	if v := verdict(); v != "allowed\n" {
		t.Error(v)
	}
	if err := tryLoad(t, config("ports 80")); err != nil {
		t.Fatal(err)
	}
	if v := verdict(); v != "denied (403): ports (allowed_ports in JSON): 443 is not in 80\n" {
		t.Error(v)
	}
}

// The limits that a request counts towards are told with what is in use, and where
// its connections would leave from.
func TestExplain_Limits(t *testing.T) {
	checkLeaks(t)
	plain := freeAddr(t)
	gate, arrived := newGate(), make(chan struct{}, 1)
	origin := newRawOrigin(t, func(oc *originConn) {
		for {
			if oc.request().target == "/hold" {
				arrived <- struct{}{}
				oc.hold(gate.c)
			}
			oc.ok("x")
		}
	})
	up := newForwarder(t, "x")
	p := &proxy{plain: plain, logs: newLogCapture(t)}
	site := fmt.Sprintf(`http://:%s {
	bind 127.0.0.1
	@parents header X-To parents
	@own header X-To own
	egress {
		basic_auth alice pw
		acl {
			allow 127.0.0.0/8
		}
		upstreams parents {
			upstream http://%s {
				max_conns 3
				max_pending off
				max_tunnels 2
				local_address 127.0.0.9
			}
		}
		transport {
			max_conns_per_host 4
			max_pending off
			max_per_user 7
			local_address 127.0.0.3
		}
		tunnel {
			max_tunnels 10
			max_per_client 5
		}
		route @parents parents
		route @own direct {
			local_address 127.0.0.4 127.0.0.5
			interface lo
		}
		route direct
	}
}
`, port(plain), up.addr)
	admin := loadWithAdmin(t, "", site)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(site), 0o600); err != nil {
		t.Fatal(err)
	}
	expect := func(args, want string) {
		t.Helper()
		out, errs, _ := explain(t, strings.Fields(args+" --user alice")...)
		var got []string
		for line := range strings.Lines(out) {
			switch word := strings.TrimSpace(line[:min(len(line), 14)]); word {
			case "upstream", "from", "limits":
				got = append(got, strings.TrimSpace(strings.ReplaceAll(latency.ReplaceAllString(line, ""), up.addr, "UP")))
			}
		}
		if text := strings.Join(got, "\n"); text != want || errs != "" && strings.HasPrefix(args, "--address") {
			t.Errorf("%s: got\n%s%s\nwant\n%s", args, text, errs, want)
		}
	}
	running, dry := "--address "+admin+" ", "--config "+file+" --adapter caddyfile "
	basics := "Proxy-Authorization: " + basic("alice", "pw") + "\r\n\r\n"

	expect(dry+origin.url("/"), "from        127.0.0.3\nlimits      max_conns_per_host 4, max_pending_per_host 128, max_pending 0\nlimits        max_per_user 7")
	expect(dry+"-H X-To:parents "+origin.addr, "upstream    http://UP: unknown (not running); priority 0, weight 1; max_tunnels 2; from 127.0.0.9\nlimits        max_tunnels 10, max_per_client 5")
	expect(running+origin.url("/"), "from        127.0.0.3\nlimits      max_conns_per_host 0/4, max_pending_per_host 0/128, max_pending 0/0\nlimits        max_per_user 0/7")
	expect(running+"-H X-To:own "+origin.addr, "from        127.0.0.4, 127.0.0.5 (by turn), interface lo\nlimits        max_tunnels 0/10, max_per_client 0/5")

	idle, held := p.dialPlain(t), p.dialPlain(t)
	held.send("GET " + origin.url("/hold") + " HTTP/1.1\r\nHost: x\r\n" + basics)
	await(t, arrived, "the request")
	if r := idle.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n"+basics); r.StatusCode != 200 {
		t.Fatal(r.StatusCode)
	}
	want := "from        127.0.0.3\nlimits      max_conns_per_host 2/4 (1 idle), max_pending_per_host 0/128, max_pending 0/0\nlimits        max_per_user 1/7"
	eventually(t, "the first connection to be idle", func() bool {
		out, _, _ := explain(t, strings.Fields(running+origin.url("/")+" --user alice")...)
		return strings.Contains(out, "(1 idle)")
	})
	expect(running+origin.url("/"), want)
	if r := idle.roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\nX-To: parents\r\n"+basics); r.StatusCode != 200 {
		t.Fatal(r.StatusCode)
	}
	eventually(t, "the connection to the upstream to be idle", func() bool {
		out, _, _ := explain(t, strings.Fields(running+"-H X-To:parents http://o.test/ --user alice")...)
		return strings.Contains(out, "max_conns 1/3 (1 idle), max_pending 0/0; from 127.0.0.9")
	})
	tun := p.dialPlain(t)
	tun.send("CONNECT " + origin.addr + " HTTP/1.1\r\nHost: x\r\nX-To: parents\r\n" + basics)
	if r := tun.responseHead("CONNECT"); r.StatusCode != 200 {
		t.Fatal(r.StatusCode)
	}
	expect(running+"-H X-To:parents "+origin.addr, "upstream    http://UP: not checked; priority 0, weight 1; 0 exchanges, 1 tunnels; max_tunnels 1/2; from 127.0.0.9\nlimits        max_tunnels 1/10, max_per_client 1/5")
	gate.open()
	held.response("GET")
	tun.Close()
}
