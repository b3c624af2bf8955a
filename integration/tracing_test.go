package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// plantedSecrets are what no span may hold.
var plantedSecrets = []string{"planted-password", "planted-session", "planted-query", "planted-upstream"}

// tracedProxy is a Caddy with `tracing`, and what is behind it.
type tracedProxy struct {
	*process
	spans  *collector
	dead   string // an upstream that refuses connections
	ends   *scriptedUpstream
	serves *scriptedUpstream
	origin *rawOrigin // answers
	echo   *rawOrigin
	via    *rawOrigin          // an echo that tunnels go to through an upstream
	heads  chan *originRequest // that origin has got
	hold   map[string]*gate    // by the path of requests to origin
	setup  func() processSetup // of the process
	login  func() http.Header  // of a client
	traced func(n clientTrace) http.Header
}

func startTraced(t *testing.T) *tracedProxy {
	t.Helper()
	p := &tracedProxy{
		process: reserve(t), spans: newCollector(t), dead: freeAddr(t),
		ends: newScriptedUpstream(t, "ends"), serves: newScriptedUpstream(t, "serves"),
		echo: newEchoOrigin(t), via: newEchoHost(t, 0), heads: make(chan *originRequest, 64),
		hold: map[string]*gate{"/held": newGate()},
	}
	p.ends.behave(closing)
	p.origin = newRawOrigin(t, func(oc *originConn) {
		for {
			r := oc.request()
			p.heads <- r
			switch {
			case strings.HasPrefix(r.target, "/held"):
				oc.hold(p.hold["/held"].c)
			case strings.HasPrefix(r.target, "/breaks"):
				oc.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
				return
			}
			oc.ok("ok")
		}
	})
	names := dnstest.Start(t)
	names.Set("known.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60})
	egress := `basic_auth alice planted-password
session_from user_suffix -session-
transport {
	resolvers udp://` + names.Addr + `
	max_conns_per_host 1
}
upstreams tried {
	lb_policy first
	lb_retries 2
	upstream http://ours:planted-upstream@` + p.dead + `
	upstream http://ours:planted-upstream@` + p.ends.addr + `
	upstream http://ours:planted-upstream@` + p.serves.addr + `
}
upstreams tunnels {
	upstream http://ours:planted-upstream@` + p.serves.addr + `
}
route {
	match {
		host tried.test
	}
	to tried
}
route {
	match {
		host 127.0.1.1
	}
	to tunnels
}
route {
	to direct
}
`
	p.setup = func() processSetup {
		return processSetup{site: "tracing\nmetrics /test-metrics\n", egress: egress, env: p.spans.env()}
	}
	p.login = func() http.Header {
		return http.Header{"Proxy-Authorization": {basic("alice-session-planted-session", "planted-password")}}
	}
	p.traced = func(n clientTrace) http.Header {
		h := p.login()
		h["Traceparent"], h["Tracestate"] = []string{n.parent()}, []string{"a=b"}
		return h
	}
	return p
}

// ask sends a request in a trace of its client's.
func (p *tracedProxy) ask(t *testing.T, kind string, n clientTrace, url string) <-chan answer {
	t.Helper()
	c := p.client(t, kind)
	r := c.newRequest(t, "GET", url+"?q=planted-query", nil)
	for name, values := range p.traced(n) {
		r.Header[name] = values
	}
	return c.goTry(r)
}

// names fails the test unless a traceparent names the span, in the client's trace.
func names(t *testing.T, header http.Header, n clientTrace, s span) {
	t.Helper()
	if got, want := header.Get("Traceparent"), "00-"+n.id()+"-"+s.id()+"-01"; got != want || header.Get("Tracestate") != "a=b" {
		t.Errorf("traceparent %q and tracestate %q, want %q and a=b", got, header.Get("Tracestate"), want)
	}
}

// Under Caddy's `tracing`, what becomes of a request is told as spans below the server's,
// and whoever gets the request continues the trace from the span of the attempt. Nothing
// secret is in any of them.
func TestTracing(t *testing.T) {
	p := startTraced(t)
	t.Parallel()
	p.start(t, p.setup())
	t.Run("retried", p.testRetried)
	t.Run("direct", p.testDirect)
	t.Run("exemplars", p.testExemplars)
	t.Run("unknown name", p.testUnknownName)
	t.Run("queue", p.testQueue)
	t.Run("malformed", p.testMalformedParent)
	t.Run("tunnels", p.testTunnels)
	t.Run("tunnel through an upstream", p.testTunnelVia)
	t.Run("broken", p.testBroken)
	p.spans.mu.Lock()
	defer p.spans.mu.Unlock()
	for _, secret := range plantedSecrets {
		if bytes.Contains(p.spans.raw, []byte(secret)) {
			t.Errorf("%q is in a span", secret)
		}
	}
}

func (p *tracedProxy) testRetried(t *testing.T) {
	p.serves.behave(answering(200))
	defer p.serves.behave(nil)
	if resp := await(t, p.ask(t, "h1", 1, "http://tried.test/"), "the answer").must(t); resp.StatusCode != 200 {
		t.Fatalf("answered %d", resp.StatusCode)
	}
	const exchange, connect, dial = "handler/egress.exchange", "handler/exchange/egress.upstream_connect", "handler/exchange/upstream_connect/egress.dial"
	spans := p.spans.trace(t, 1, "handler", exchange, connect, dial, exchange, connect, dial, exchange, connect, dial)
	attempts, connects, dials := named(spans, "egress.exchange"), named(spans, "egress.upstream_connect"), named(spans, "egress.dial")
	urls := []string{"http://" + p.dead, p.ends.url(), p.serves.url()}
	failures := []string{"connection_refused", "connection_terminated", ""}
	for i, s := range attempts {
		again := ""
		if i > 0 {
			again = fmt.Sprint(i)
		}
		s.has(t, map[string]string{
			"http.request.method": "GET", "server.address": "tried.test", "server.port": "80", "http.request.resend_count": again,
			"egress.path": "upstream", "egress.group": "tried", "egress.upstream": urls[i], "error.type": failures[i],
		})
		_, at, _ := strings.Cut(urls[i], "//")
		connects[i].has(t, map[string]string{"egress.group": "tried", "egress.upstream": urls[i], "server.address": "127.0.0.1", "server.port": port(at)})
		dials[i].has(t, map[string]string{"network.peer.address": "127.0.0.1", "network.peer.port": port(at)})
		if string(connects[i].ParentSpanId) != string(s.SpanId) {
			t.Errorf("attempt %d has connected as another one", i)
		}
	}
	for _, s := range []span{connects[0], dials[0]} {
		s.has(t, map[string]string{"error.type": "connection_refused"})
	}
	attempts[2].has(t, map[string]string{"http.response.status_code": "200", "network.peer.address": "127.0.0.1", "network.peer.port": port(p.serves.addr)})
	names(t, await(t, p.ends.seen, "the first request").Header, 1, attempts[1])
	names(t, await(t, p.serves.seen, "the second request").Header, 1, attempts[2])
}

// Histograms of requests have their trace for an example, for who asks for OpenMetrics.
func (p *tracedProxy) testExemplars(t *testing.T) {
	await(t, p.ask(t, "h1", 77, "http://known.test:"+port(p.origin.addr)+"/"), "the answer").must(t).expect(t, 200, "ok")
	await(t, p.heads, "the request")
	exemplar := `# {trace_id="` + clientTrace(77).id() + `"}`
	want := []string{"caddy_egress_request_duration_seconds_bucket", "caddy_egress_ttfb_seconds_bucket"}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		r, _ := http.NewRequest(http.MethodGet, "http://"+p.plain+"/test-metrics", http.NoBody)
		r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		r.Close = true
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		missing := slices.DeleteFunc(slices.Clone(want), func(name string) bool {
			return regexp.MustCompile("(?m)^" + name + ".*" + regexp.QuoteMeta(exemplar)).Match(text)
		})
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in %s", exemplar, missing)
		}
	}
}

func (p *tracedProxy) testDirect(t *testing.T) {
	url := "http://known.test:" + port(p.origin.addr) + "/"
	c := p.client(t, "h1")
	for n := clientTrace(10); n < 12; n++ {
		r := c.newRequest(t, "GET", url+"?q=planted-query", nil)
		r.Header = p.traced(n)
		c.do(t, r).expect(t, 200, "ok")
		want := []string{"handler", "handler/egress.exchange"}
		if n == 10 {
			want = append(want, "handler/exchange/egress.dns", "handler/exchange/egress.dial")
		}
		spans := p.spans.trace(t, n, want...)
		s := named(spans, "egress.exchange")[0]
		s.has(t, map[string]string{
			"server.address": "known.test", "server.port": port(p.origin.addr), "http.response.status_code": "200",
			"network.peer.address": "127.0.0.1", "network.peer.port": port(p.origin.addr),
			"egress.path": "direct", "egress.group": "", "egress.upstream": "", "error.type": "",
		})
		for _, s := range named(spans, "egress.dns") {
			s.has(t, map[string]string{"dns.question.name": "known.test", "error.type": ""})
		}
		names(t, await(t, p.heads, "the request").header, n, s)
	}
}

func (p *tracedProxy) testUnknownName(t *testing.T) {
	if resp := await(t, p.ask(t, "h2", 20, "http://unknown.test/"), "the answer").must(t); resp.StatusCode != 502 {
		t.Errorf("answered %d", resp.StatusCode)
	}
	for _, s := range p.spans.trace(t, 20, "handler", "handler/egress.exchange", "handler/exchange/egress.dns")[1:] {
		s.has(t, map[string]string{"error.type": "dns_error"})
	}
}

// A trace that is begun anew, since the client's traceparent is none, has no state of theirs.
func (p *tracedProxy) testMalformedParent(t *testing.T) {
	c := p.client(t, "h1")
	for _, parent := range []string{"junk", "ff-11111111111111111111111111111111-2222222222222222-01", ""} {
		r := c.newRequest(t, "GET", p.origin.url("/"), nil)
		r.Header["Proxy-Authorization"] = p.traced(1)["Proxy-Authorization"]
		if parent != "" {
			r.Header.Set("Traceparent", parent)
		}
		r.Header.Set("Tracestate", "a=theirs")
		c.do(t, r).expect(t, 200, "ok")
		if h := await(t, p.heads, "the request").header; h["Tracestate"] != nil || len(h["Traceparent"]) != 1 || h.Get("Traceparent") == parent {
			t.Errorf("%q: %v", parent, h)
		}
	}
}

func (p *tracedProxy) testQueue(t *testing.T) {
	url := p.origin.url("/held")
	first := p.ask(t, "h1", 30, url)
	await(t, p.heads, "the first request")
	second := p.ask(t, "h1", 31, url)
	eventually(t, "a request that waits", func() bool { return p.pending(t) })
	p.hold["/held"].open()
	for _, a := range []<-chan answer{first, second} {
		await(t, a, "the answer").must(t).expect(t, 200, "ok")
	}
	await(t, p.heads, "the second request")
	p.spans.trace(t, 30, "handler", "handler/egress.exchange", "handler/exchange/egress.dial")
	queue := named(p.spans.trace(t, 31, "handler", "handler/egress.exchange", "handler/exchange/egress.queue"), "egress.queue")[0]
	if queue.EndTimeUnixNano <= queue.StartTimeUnixNano {
		t.Error("nobody has waited")
	}
}

// A tunnel has a span from its attempt to its end, on every protocol, and its log line
// names the trace. On HTTP/1.1 the server's span ends when the tunnel stands.
func (p *tracedProxy) testTunnels(t *testing.T) {
	for i, kind := range clientKinds {
		n := clientTrace(40 + i)
		resp, tun := p.client(t, kind).connect(t, p.echo.addr, "", p.traced(n))
		if resp.StatusCode != 200 {
			t.Fatalf("%s: answered %d", kind, resp.StatusCode)
		}
		write(t, tun, "ping!")
		if got := readN(t, tun, 5); got != "ping!" {
			t.Errorf("%s: %q came back", kind, got)
		}
		if strings.HasPrefix(kind, "h1") {
			p.spans.trace(t, n, "handler", "egress.dial") // that of the tunnel is yet to come
		}
		if err := tun.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
			t.Errorf("%s: ended with %q, %v", kind, rest, err)
		}
		spans := p.spans.trace(t, n, "handler", "handler/egress.tunnel", "handler/tunnel/egress.dial")
		named(spans, "egress.tunnel")[0].has(t, map[string]string{
			"egress.bytes_up": "5", "egress.bytes_down": "5", "egress.close_reason": "client", "egress.path": "direct", "error.type": "",
			"server.address": "127.0.0.1", "server.port": port(p.echo.addr), "network.peer.port": port(p.echo.addr),
		})
		line := p.logs.wait(t, "the line of the tunnel", func(l logLine) bool { return l.isAccess() && l.str("traceID") == n.id() })
		if line.str("spanID") != spans[0].id() || line.num("egress.bytes_up") != 5 || line.num("egress.bytes_down") != 5 {
			t.Errorf("%s: %v", kind, line)
		}
	}
}

func (p *tracedProxy) testTunnelVia(t *testing.T) {
	p.serves.asked()
	_, tun := p.client(t, "h1").connect(t, p.via.addr, "", p.traced(50))
	alive(t, tun, "the tunnel")
	tun.Close()
	spans := p.spans.trace(t, 50, "handler", "handler/egress.tunnel", "handler/tunnel/egress.upstream_connect", "handler/tunnel/upstream_connect/egress.dial")
	s := named(spans, "egress.upstream_connect")[0]
	s.has(t, map[string]string{"http.request.method": "CONNECT", "http.response.status_code": "200", "egress.upstream": p.serves.url(), "error.type": ""})
	named(spans, "egress.tunnel")[0].has(t, map[string]string{"egress.path": "upstream", "egress.group": "tunnels", "egress.upstream": p.serves.url()})
	names(t, await(t, p.serves.seen, "the CONNECT").Header, 50, s)
}

// The line of an exchange that breaks is ours to write, also around the writer of tracing:
// Caddy's has a duration of 0.
func (p *tracedProxy) testBroken(t *testing.T) {
	resp := await(t, p.ask(t, "h1", 60, p.origin.url("/breaks")), "the answer").must(t)
	await(t, p.heads, "the request")
	if resp.bodyErr == nil {
		t.Errorf("the answer was whole: %q", resp.body)
	}
	line := p.logs.wait(t, "the line of the exchange", func(l logLine) bool { return l.isAccess() && l.str("traceID") == clientTrace(60).id() })
	if line.num("duration") <= 0 || line.num("status") != 200 {
		t.Errorf("status and duration are wrong: %v", line)
	}
	s := named(p.spans.trace(t, 60, "handler", "handler/egress.exchange"), "egress.exchange")[0]
	s.has(t, map[string]string{"error.type": "http_response_incomplete", "http.response.status_code": "200"})
}

// With `hide_trace`, nobody behind the proxy is told of the trace.
func TestTracing_Hidden(t *testing.T) {
	p := startTraced(t)
	t.Parallel()
	s := p.setup()
	s.egress += "hide_trace\n"
	p.start(t, s)
	await(t, p.ask(t, "h2", 70, p.origin.url("/")), "the answer").must(t).expect(t, 200, "ok")
	_, tun := p.client(t, "h1").connect(t, p.via.addr, "", p.traced(71))
	alive(t, tun, "the tunnel")
	tun.Close()
	for _, header := range []http.Header{await(t, p.heads, "the request").header, await(t, p.serves.seen, "the CONNECT").Header} {
		if header["Traceparent"] != nil || header["Tracestate"] != nil {
			t.Errorf("the trace was told: %v", header)
		}
	}
	eventually(t, "the spans", func() bool { return len(p.spans.of(70)) >= 2 && len(p.spans.of(71)) == 4 })
}

// pending reports whether a request waits for a connection.
func (p *tracedProxy) pending(t *testing.T) bool {
	t.Helper()
	resp, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "caddy_egress_pool_waiting{") && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			return true
		}
	}
	return false
}
