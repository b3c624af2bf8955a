package integration

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file contains the tests of metrics: they count what a load generator has done, to
// the one, and a reload resets nothing.

// measured has the metrics served beside the proxy.
func measured(egress string) setup { return setup{egress: egress, site: "metrics /test-metrics"} }

// scrapeText returns all metrics.
func (p *proxy) scrapeText(t *testing.T) string {
	t.Helper()
	r, _ := http.NewRequest(http.MethodGet, "http://"+p.plain+"/test-metrics", http.NoBody)
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return string(b)
}

// scrape returns the module's metrics, by name and labels without the handler. Those of
// both servers are summed up.
func (p *proxy) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	handler := regexp.MustCompile(`,?handler="[^"]*"`)
	seen := make(map[string]float64)
	for line := range strings.Lines(p.scrapeText(t)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(name, "caddy_egress_") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(line, err)
		}
		name = strings.Replace(handler.ReplaceAllString(name, ""), "{,", "{", 1) + "}"
		seen[strings.TrimPrefix(name, "caddy_egress_")] += v
	}
	return seen
}

// untilMeasured waits until the metrics that are wanted have their values: a client may
// have its answer before the request is over.
func (p *proxy) untilMeasured(t *testing.T, want map[string]float64) {
	t.Helper()
	var seen map[string]float64
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		seen = p.scrape(t)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(name string) bool { return seen[name] != want[name] }) {
			return
		}
	}
	for name, n := range want {
		if seen[name] != n {
			t.Errorf("%s is %v, want %v", name, seen[name], n)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(slices.Sorted(maps.Keys(seen)), "\n"))
	}
}

// What is counted equals what was done, to the one, over all protocols of clients and over
// reloads with other settings.
func TestMetrics_CountToTheOne(t *testing.T) {
	checkLeaks(t)
	driveToTheOne(t, 3, func(*proxy) {})
}

// driveToTheOne makes so many rounds of mixed requests after each of 20 reloads, compares
// the metrics with what was done, and returns what they are. scraped is called first.
func driveToTheOne(t *testing.T, rounds int, scraped func(*proxy)) (want map[string]float64) {
	t.Helper()
	origin, dead := okOrigin(t), refusedAddr(t)
	echo := newEchoOrigin(t)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		oc.ok("via")
		return true
	})
	config := func(generation int) setup {
		return measured(usual + fmt.Sprintf(`
			destination_circuit off
			transport {
				max_conns_per_host %d
			}
			upstreams parents {
				upstream http://%s
			}
			route {
				match {
					host far.test
				}
				to parents
			}
			route direct
		`, 100+generation, up.addr))
	}
	p := start(t, mode{}, config(0))
	scraped(p)
	const reloads = 20
	kinds := []string{"h1", "h1tls", "h2", "h3"}
	for generation := range reloads + 1 {
		if generation > 0 {
			p.reload(t, config(generation))
		}
		var wg sync.WaitGroup
		for _, kind := range kinds {
			c := p.client(t, kind)
			wg.Go(func() {
				for range rounds {
					c.get(t, origin.URL).expect(t, 200, "ok")
					c.get(t, "http://far.test/").expect(t, 200, "via")
					expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
					expectError(t, c.get(t, "http://10.0.0.1/").Response, 403, "destination_ip_prohibited")
					tun := c.open(t, echo.addr)
					_, _ = io.WriteString(tun, "12345")
					if _, err := io.ReadFull(tun, make([]byte, 5)); err != nil {
						t.Error(err)
					}
					_ = tun.CloseWrite()
					_, _ = io.Copy(io.Discard, tun)
					tun.Close()
				}
			})
		}
		wg.Wait()
	}
	n := float64((reloads + 1) * rounds * len(kinds))
	name := func(metric string, labels ...string) string {
		slices.Sort(labels)
		return metric + "{" + strings.Join(labels, ",") + "}"
	}
	request := func(kind, path, group, code, outcome string) string {
		return name("requests_total", `door="http"`, `kind="`+kind+`"`, `path="`+path+`"`, `group="`+group+`"`, `code="`+code+`"`, `outcome="`+outcome+`"`)
	}
	want = map[string]float64{
		request("exchange", "direct", "", "2xx", "ok"):                                                                       n,
		request("exchange", "upstream", "parents", "2xx", "ok"):                                                              n,
		request("exchange", "direct", "", "5xx", "failed"):                                                                   n,
		request("exchange", "none", "", "4xx", "failed"):                                                                     n,
		request("tunnel", "direct", "", "2xx", "ok"):                                                                         n,
		name("failures_total", `kind="exchange"`, `stage="request"`, `blame="origin"`, `reason="connection_refused"`):        n,
		name("failures_total", `kind="exchange"`, `stage="request"`, `blame="policy"`, `reason="destination_ip_prohibited"`): n,
		name("tunnels_opened_total", `path="direct"`, `group=""`):                                                            n,
		name("tunnels_closed_total", `path="direct"`, `group=""`, `reason="client"`):                                         n,
		name("tunnel_duration_seconds_count", `path="direct"`, `group=""`):                                                   n,
		name("tunnels", `path="direct"`, `group=""`):                                                                         0,
		name("requests_in_flight", `kind="exchange"`):                                                                        0,
		name("requests_in_flight", `kind="tunnel"`):                                                                          0,
		name("bytes_total", `kind="tunnel"`, `direction="up"`, `path="direct"`, `group=""`):                                  5 * n,
		name("bytes_total", `kind="tunnel"`, `direction="down"`, `path="direct"`, `group=""`):                                5 * n,
		name("bytes_total", `kind="exchange"`, `direction="down"`, `path="upstream"`, `group="parents"`):                     3 * n,
		name("ttfb_seconds_count", `path="upstream"`, `group="parents"`):                                                     n,
		name("request_duration_seconds_count", `kind="exchange"`, `path="upstream"`, `group="parents"`):                      n,
		// Both servers have the group, and show what is known of it.
		name("upstream_requests_total", `upstream="http://`+up.addr+`"`, `group="parents"`, `result="success"`): 2 * n,
		name("upstreams_healthy", `upstream="http://`+up.addr+`"`, `group="parents"`):                           2,
		name("upstream_state", `upstream="http://`+up.addr+`"`, `group="parents"`, `state="up"`):                2,
		name("pool_dials_total", `path="direct"`, `group=""`, `result="failed"`):                                n,
		name("decisions_total", `rule="default deny: private"`, `action="deny"`):                                n,
		name("dns_lookups_total", `result="miss"`):                                                              0,
		name("reload_kept", `kind="upstream"`):                                                                  2,
		name("reload_drained", `kind="upstream"`):                                                               0,
	}
	p.untilMeasured(t, want)
	return want
}

// A handler that no configuration has any more is forgotten: one at another address is
// another one.
func TestMetrics_HandlersThatGo(t *testing.T) {
	checkLeaks(t)
	origin := okOrigin(t)
	p := start(t, mode{}, measured(usual))
	p.client(t, "h1").get(t, origin.URL).expect(t, 200, "ok")
	before := port(p.plain)
	p.plain = freeAddr(t)
	p.reload(t, measured(usual))
	p.client(t, "h1").get(t, origin.URL).expect(t, 200, "ok")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text := p.scrapeText(t)
		if strings.Contains(text, ":"+port(p.plain)+"#1") && !strings.Contains(text, ":"+before+"#1") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the handler of before is still there, or that of now is not")
		}
	}
}

// Refusals by limits and logins that fail are counted by which, and secrets are in no label.
func TestMetrics_RefusalsAndSecrets(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool { oc.ok("via"); return true })
	p := start(t, mode{}, measured(openLoopback+`
		hosts proxy.test
		basic_auth planted-user planted-password
		tunnel {
			max_tunnels 1
		}
		upstreams parents {
			upstream http://planted-name:planted-secret@`+up.addr+`
		}
		route {
			match {
				host far.test
			}
			to parents
		}
		route direct
	`))
	c := p.client(t, "h1")
	login := http.Header{"Proxy-Authorization": {basic("planted-user", "planted-password")}}
	resp, first := c.connect(t, echo.addr, "", login)
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	defer first.Close()
	if resp, _ := c.connect(t, echo.addr, "", login); resp.StatusCode != 503 {
		t.Fatal(resp.Status)
	}
	if resp, _ := c.connect(t, echo.addr, "", nil); resp.StatusCode != 407 {
		t.Fatal(resp.Status)
	}
	if resp, _ := c.connect(t, echo.addr, "", http.Header{"Proxy-Authorization": {basic("planted-user", "planted-wrong")}}); resp.StatusCode != 407 {
		t.Fatal(resp.Status)
	}
	r := c.newRequest(t, "GET", "http://far.test/planted-path?planted-query", nil)
	r.Header.Set("Proxy-Authorization", basic("planted-user", "planted-password"))
	c.do(t, r).expect(t, 200, "via")
	for _, url := range []string{"http://planted-host.invalid/", "http://10.0.0.1/planted-path", "http://" + refusedAddr(t) + "/?planted-query"} {
		r := c.newRequest(t, "GET", url, nil)
		r.Header.Set("Proxy-Authorization", basic("planted-user", "planted-password"))
		c.do(t, r)
	}
	p.untilMeasured(t, map[string]float64{
		`auth_total{result="ok"}`:                            6,
		`limit_rejections_total{limit="tunnel.max_tunnels"}`: 1,
		`tunnels{group="",path="direct"}`:                    1,
	})
	for line := range strings.Lines(p.scrapeText(t)) {
		if strings.Contains(line, "planted") {
			t.Error(line)
		}
	}
}

// Members whose URLs differ in what is not told have series of their own, and no scrape fails
// for them.
func TestMetrics_MembersOfOneName(t *testing.T) {
	checkLeaks(t)
	up := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool { oc.ok("via"); return true })
	p := start(t, mode{}, measured(usual+`upstreams default {
		upstream http://one:secret@`+up.addr+`
		upstream http://two:secret@`+up.addr+`
		lb_policy round_robin
	}`))
	for range 4 {
		p.client(t, "h1").get(t, "http://far.test/").expect(t, 200, "via")
	}
	p.untilMeasured(t, map[string]float64{
		`upstream_requests_total{group="default",result="success",upstream="http://` + up.addr + `"}`:   4, // by both handlers
		`upstream_requests_total{group="default",result="success",upstream="http://` + up.addr + `#2"}`: 4,
	})
}

// What a handler has left behind is counted to its end, and found by the handler that comes
// back to its place.
func TestMetrics_HandlersThatComeBack(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	config := measured(usual + "tunnel {\n close_delay 5m\n}\n")
	p := start(t, mode{}, config)
	tun := p.client(t, "h1").open(t, echo.addr)
	defer tun.Close()
	place := p.plain
	p.plain = freeAddr(t)
	p.reload(t, config)
	p.plain = place
	p.reload(t, config)
	p.untilMeasured(t, map[string]float64{
		`tunnels{group="",path="direct"}`:              1,
		`tunnels_opened_total{group="",path="direct"}`: 1,
	})
	_ = tun.CloseWrite()
	_, _ = io.Copy(io.Discard, tun)
	p.untilMeasured(t, map[string]float64{
		`tunnels{group="",path="direct"}`:                              0,
		`tunnels_closed_total{group="",path="direct",reason="client"}`: 1,
	})
}

// Connections of clients are counted by what they speak, over reloads.
func TestMetrics_ClientConnections(t *testing.T) {
	checkLeaks(t)
	origin, echo := okOrigin(t), newEchoOrigin(t)
	p := start(t, mode{}, measured(usual))
	of := func(metric, protocol string) string {
		return metric + `{door="http",protocol="` + protocol + `"}`
	}
	silent := p.dialPlain(t)
	first := p.client(t, "h2")
	tun := first.open(t, echo.addr)
	alive(t, tun, "over HTTP/2")
	p.untilMeasured(t, map[string]float64{
		of("client_connections", "none"):         1,
		of("client_connections", "http/2"):       1,
		of("client_connections_total", "http/2"): 1,
		of("client_connections", "http/1"):       1, // that of the scrape
	})
	kept := p.dialPlain(t)
	kept.send("GET " + origin.URL + " HTTP/1.1\r\nHost: x\r\n\r\n")
	kept.responseHead(http.MethodGet)
	over := p.client(t, "h1").open(t, echo.addr) // is a tunnel, and no connection of the server any more
	alive(t, over, "over HTTP/1.1")
	silent.Close()
	p.untilMeasured(t, map[string]float64{
		of("client_connections", "none"):       0,
		of("client_connections_total", "none"): 1,
		of("client_connections", "http/1"):     2,
		`tunnels{group="",path="direct"}`:      2,
	})
	over.Close()
	tun.Close()
	kept.Close()
	p.reload(t, measured(usual+"\ntunnel {\nmax_tunnels 100\n}\n"))
	alive(t, p.client(t, "h2").open(t, echo.addr), "after a reload")
	p.untilMeasured(t, map[string]float64{
		of("client_connections_total", "http/2"): 2,
		of("client_connections_total", "none"):   1,
		of("client_connections", "http/1"):       1,
	})
}

// Users that the operator names are told apart, the others are summed up, and a reload keeps
// what was counted of those that stay.
func TestMetrics_Users(t *testing.T) {
	checkLeaks(t)
	origin, echo := okOrigin(t), newEchoOrigin(t)
	config := func(users string) setup {
		return measured(strings.Replace(usual, "allow_unauthenticated\n", "", 1) + "basic_auth alice a\nbasic_auth bob b\nbasic_auth carol c\n" + users)
	}
	p := start(t, mode{}, config("metrics_users alice bob"))
	as := func(user, password string) http.Header {
		return http.Header{"Proxy-Authorization": {basic(user, password)}}
	}
	ask := func(user, password string) {
		t.Helper()
		resp, tun := p.client(t, "h2").connect(t, echo.addr, "", as(user, password))
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		alive(t, tun, user)
		_ = tun.CloseWrite()
		_, _ = io.Copy(io.Discard, tun)
		tun.Close()
		r, _ := http.NewRequest(http.MethodPost, origin.URL, strings.NewReader("0123456789"))
		r.Header = as(user, password)
		p.client(t, "h1").do(t, r).expect(t, 200, "ok")
		r, _ = http.NewRequest(http.MethodGet, "http://10.0.0.1/", http.NoBody)
		r.Header = as(user, password)
		p.client(t, "h1").do(t, r).expect(t, 403, "10.0.0.1:80: address of the destination is not allowed\n")
	}
	requests := func(user, kind, outcome string) string {
		return `user_requests_total{kind="` + kind + `",outcome="` + outcome + `",user="` + user + `"}`
	}
	bytes := func(user, direction string) string {
		return `user_bytes_total{direction="` + direction + `",user="` + user + `"}`
	}
	p.client(t, "h1").get(t, origin.URL) // nobody: 407
	ask("alice", "a")
	ask("carol", "c")
	want := map[string]float64{bytes("bob", "up"): 0}
	for _, user := range []string{"alice", "_other"} {
		want[requests(user, "tunnel", "ok")], want[requests(user, "exchange", "ok")], want[requests(user, "exchange", "failed")] = 1, 1, 1
		want[bytes(user, "up")] = 4 + 10
		want[bytes(user, "down")] = 4 + 2
	}
	p.untilMeasured(t, want)
	p.reload(t, config("metrics_users alice carol"))
	ask("alice", "a")
	ask("bob", "b")
	ask("carol", "c")
	p.untilMeasured(t, map[string]float64{
		requests("alice", "tunnel", "ok"): 2, requests("_other", "tunnel", "ok"): 2, requests("carol", "tunnel", "ok"): 1,
		bytes("alice", "up"): 28,
	})
	for deadline := time.Now().Add(patience); strings.Contains(p.scrapeText(t), `user="bob"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a user that no configuration names is told apart still")
		}
	}
	p.reload(t, config(""))
	for deadline := time.Now().Add(patience); strings.Contains(p.scrapeText(t), "user_requests"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("users are told apart, though nobody is named")
		}
	}
}
