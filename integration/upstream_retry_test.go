package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// upstreamFate is what an upstream does with the first request that it gets.
type upstreamFate struct {
	name   string
	reply  string // "" to close
	early  bool   // before the body is read
	reset  bool
	dial   string // "refused" or "reset": there is no request
	unsent bool   // nobody may have acted on it
	relay  bool   // it is the answer of the origin, or a refusal that is final
	mute   bool   // no byte of a response: idempotent requests go elsewhere
	// what the client gets where nothing else is done, and what the log says
	status int
	blame  string
	reason string
}

const via = "Via: 1.1 far\r\n"

var upstreamFates = []upstreamFate{
	{name: "refused", dial: "refused", unsent: true, status: 502, blame: "upstream", reason: "connection_refused"},
	{name: "EOF after the head", early: true, mute: true, status: 502, blame: "upstream", reason: "connection_terminated"},
	{name: "reset after the head", early: true, reset: true, mute: true, status: 502, blame: "upstream", reason: "connection_terminated"},
	{name: "EOF after the request", mute: true, status: 502, blame: "upstream", reason: "connection_terminated"},
	{name: "reset after the request", mute: true, reset: true, status: 502, blame: "upstream", reason: "connection_terminated"},
	{name: "garbage", reply: "SSH-2.0-x\r\n\r\n", status: 502, blame: "upstream", reason: "http_protocol_error"},
	{name: "another protocol, without a line end", reply: "SSH-2.0-x", status: 502, blame: "upstream", reason: "http_protocol_error"},
	{name: "half a head", reply: "HTTP/1.1 200 O", status: 502, blame: "upstream", reason: "connection_terminated"},
	{name: "407", reply: "HTTP/1.1 407 x\r\nContent-Length: 0\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", status: 500, blame: "upstream", reason: "proxy_configuration_error"},
	{name: "407 without a challenge", reply: "HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", status: 500, blame: "upstream", reason: "proxy_configuration_error"},
	{name: "407 of the origin", reply: "HTTP/1.1 407 x\r\n" + via + "Content-Length: 0\r\n\r\n", relay: true, status: 502, blame: "origin", reason: "http_protocol_error"},
	{name: "429", reply: "HTTP/1.1 429 x\r\nProxy-Status: x; error=connection_limit_reached\r\nContent-Length: 0\r\n\r\n", status: 429, blame: "upstream", reason: "connection_limit_reached"},
	{name: "429 of the origin", reply: "HTTP/1.1 429 x\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno", relay: true, status: 429},
	{name: "502, DNS", reply: "HTTP/1.1 502 x\r\nProxy-Status: x; error=dns_error\r\nContent-Length: 0\r\n\r\n", status: 502, blame: "dns", reason: "dns_error"},
	{name: "502, connect", reply: "HTTP/1.1 502 x\r\nProxy-Status: x; error=connection_refused\r\nContent-Length: 0\r\n\r\n", status: 502, blame: "origin", reason: "connection_refused"},
	{name: "502, internal", reply: "HTTP/1.1 502 x\r\nProxy-Status: x; error=proxy_internal_error\r\nContent-Length: 0\r\n\r\n", status: 502, blame: "upstream", reason: "proxy_internal_error"},
	{name: "502, internal, of the origin", reply: "HTTP/1.1 502 x\r\nProxy-Status: x; error=proxy_internal_error\r\n" + via + "Content-Length: 0\r\n\r\n", relay: true, status: 502},
	{name: "500, internal", reply: "HTTP/1.1 500 x\r\nProxy-Status: x; error=proxy_internal_error\r\nContent-Length: 0\r\n\r\n", status: 500, blame: "upstream", reason: "proxy_internal_error"},
	{name: "500, internal, of the origin", reply: "HTTP/1.1 500 x\r\nProxy-Status: x; error=proxy_internal_error\r\n" + via + "Content-Length: 0\r\n\r\n", relay: true, status: 500},
	{name: "503, limit", reply: "HTTP/1.1 503 x\r\nProxy-Status: x; error=connection_limit_reached\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", status: 503, blame: "upstream", reason: "connection_limit_reached"},
	{name: "504, timeout", reply: "HTTP/1.1 504 x\r\nProxy-Status: x; error=connection_timeout\r\nContent-Length: 0\r\n\r\n", status: 504, blame: "origin", reason: "connection_timeout"},
	{name: "503, Squid", reply: "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\nVia: 1.1 squid\r\nContent-Length: 3\r\n\r\nerr", status: 503, blame: "dns", reason: "dns_error"},
	{name: "502, bare", reply: "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n", relay: true, status: 502},
	{name: "502 of the origin", reply: "HTTP/1.1 502 x\r\n" + via + "Content-Length: 2\r\n\r\nno", relay: true, status: 502},
	{name: "502 with a body", reply: "HTTP/1.1 502 x\r\nContent-Length: 2\r\n\r\nno", relay: true, status: 502},
	{name: "502 through a proxy", reply: "HTTP/1.1 502 x\r\n" + via + "Content-Length: 0\r\n\r\n", relay: true, status: 502},
	{name: "500", reply: "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", relay: true, status: 500},
	{name: "403", reply: "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", relay: true, status: 403},
	{name: "403 of its own", reply: "HTTP/1.1 403 x\r\nProxy-Status: x; error=http_request_denied\r\nContent-Length: 0\r\n\r\n", relay: true, status: 403, blame: "policy", reason: "http_request_denied"},
}

// serve starts an upstream that has the fate on its connection number `on`, and
// works on all others.
func (f *upstreamFate) start(t *testing.T, on int, seen *seenRequests, path string) string {
	if f.dial == "refused" {
		return refusedAddr(t)
	}
	u := newRawOrigin(t, func(oc *originConn) {
		for {
			die := oc.number == on
			if die && f.early {
				head := oc.head()
				if strings.Contains(head, "/warm") {
					oc.ok("warm")
					continue
				}
				seen.saw(path)
				f.end(oc)
				return
			}
			r := oc.request()
			if strings.HasSuffix(r.target, "/warm") {
				oc.ok("warm")
				continue
			}
			seen.saw(path)
			switch {
			case !die && r.method == "HEAD":
				oc.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
			case !die:
				oc.ok("A")
			case f.reply == "":
				f.end(oc)
				return
			case r.method == "HEAD" && f.status != 0 && strings.Contains(f.reply, "\r\n\r\n"):
				head, _, _ := strings.Cut(f.reply, "\r\n\r\n")
				oc.send(head + "\r\n\r\n")
			default:
				oc.send(f.reply)
				if !strings.Contains(f.reply, "Content-Length") {
					oc.closeWrite()
				}
			}
		}
	})
	return u.addr
}

func (f *upstreamFate) end(oc *originConn) {
	if f.reset {
		oc.reset()
		return
	}
	oc.Close()
}

// upstream.md §1 and §5: what becomes of a request whose first upstream has a fate,
// by method, size of the body, and state of the connection.
func TestUpstreamRetry_Table(t *testing.T) {
	checkLeaks(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		tc := upstreamCase{
			fate:   rapid.SampledFrom(upstreamFates).Draw(rt, "fate"),
			method: rapid.SampledFrom([]string{"GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"}).Draw(rt, "method"),
			reused: rapid.Bool().Draw(rt, "reused"),
			alone:  rapid.IntRange(0, 3).Draw(rt, "alone") == 0,
			off:    rapid.IntRange(0, 3).Draw(rt, "off") == 0,
			path:   fmt.Sprintf("/%d", n),
		}
		if tc.method != "GET" && tc.method != "HEAD" {
			tc.size = rapid.SampledFrom([]int{0, 3000, hasBodyRoom + 1}).Draw(rt, "size")
		}
		tc.reused = tc.reused && tc.fate.dial == ""
		t.Run(fmt.Sprintf("%+v", tc), tc.run)
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// Each fate, for a GET and a POST.
func TestUpstreamRetry_Fates(t *testing.T) {
	checkLeaks(t)
	for i, fate := range upstreamFates {
		for _, method := range []string{"GET", "POST"} {
			tc := upstreamCase{fate: fate, method: method, path: fmt.Sprintf("/f%d", i)}
			t.Run(fate.name+" "+method, tc.run)
		}
	}
}

type upstreamCase struct {
	fate   upstreamFate
	method string
	size   int
	reused bool
	alone  bool // there is no other upstream
	off    bool // lb_retries
	path   string
}

func (tc upstreamCase) run(t *testing.T) {
	f := &tc.fate
	seen, other := &seenRequests{n: map[string]int{}}, newForwarder(t, "B")
	a := f.start(t, 1, seen, tc.path)
	upstreams := []string{a, other.addr}
	if tc.alone {
		upstreams = upstreams[:1]
	}
	options := "lb_policy first\n"
	if tc.off {
		options += "lb_retries off\n"
	}
	p := start(t, mode{access: true}, setup{egress: group(options, upstreams...)})
	if tc.reused {
		if r := p.dialPlain(t).roundTrip("GET", "GET http://o.test/warm HTTP/1.1\r\nHost: x\r\n\r\n"); r.body != "warm" {
			t.Fatalf("warming: %d %q", r.StatusCode, r.body)
		}
	}
	raw := p.dialPlain(t)
	request := tc.method + " http://o.test" + tc.path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	if tc.size > 0 {
		request += fmt.Sprintf("Content-Length: %d\r\n", tc.size)
	}
	raw.trySend(request + "\r\n" + strings.Repeat("b", tc.size))
	resp := raw.response(tc.method)
	line := p.egressLine(t, tc.path)
	tc.check(t, resp, line, a, other, seen.times(tc.path))
}

func (tc *upstreamCase) check(t *testing.T, resp *rawResponse, line logLine, a string, other *fakeUpstream, times int) {
	f := &tc.fate
	idempotent := tc.method != "POST" && tc.method != "PATCH"
	replayable := tc.size == 0 || idempotent && tc.size <= hasBodyRoom
	if f.unsent && f.dial != "" {
		replayable = true // it was not begun
	}
	maybe := f.early && tc.size > 0 && replayable // as much of the body as had come
	may := !f.relay && replayable && (f.unsent || idempotent && (f.mute || f.reply != "" && f.status != 0 && f.name != "half a head"))
	again := may && f.mute && tc.reused // on a fresh connection to A
	elsewhere := may && !again && !tc.alone && !tc.off
	upstream, status, attempts := "http://"+a, f.status, 1.0
	switch {
	case again:
		status, attempts = 200, 2
	case elsewhere:
		upstream, status, attempts = "http://"+other.addr, 200, 2
	}
	if maybe && resp.StatusCode == f.status {
		upstream, status, attempts = "http://"+a, f.status, 1
		again, elsewhere = false, false
	}
	if resp.StatusCode != status || line.str("egress.upstream") != upstream || line.num("egress.attempts") != attempts {
		t.Fatalf("%d through %s after %v attempts, want %d, %s, %v: %v", resp.StatusCode, line.str("egress.upstream"),
			line.num("egress.attempts"), status, upstream, attempts, line["egress"])
	}
	blame, reason := f.blame, f.reason
	if status == http.StatusOK {
		blame, reason = "", ""
	}
	if line.str("egress.blame") != blame || line.str("egress.reason") != reason {
		t.Errorf("blamed %q for %q, want %q, %q: %v", line.str("egress.blame"), line.str("egress.reason"), blame, reason, line["egress"])
	}
	sentTo, sentElsewhere := 1, 0
	if f.dial != "" {
		sentTo = 0
	}
	if again {
		sentTo = 2
	}
	if elsewhere {
		sentElsewhere = 1
	}
	if times != sentTo || other.asked() != sentElsewhere {
		t.Errorf("A saw it %d times, B %d, want %d and %d", times, other.asked(), sentTo, sentElsewhere)
	}
	if f.reply == "" || status == 200 || strings.HasPrefix(f.name, "407") {
		return
	}
	// An answer that nothing can be done about is relayed as it is.
	if _, body, ok := strings.Cut(f.reply, "\r\n\r\n"); ok && f.name != "garbage" && tc.method != "HEAD" && resp.body != body {
		t.Errorf("body %q, want %q", resp.body, body)
	}
	if resp.Header.Get("Proxy-Authenticate") != "" {
		t.Error("the challenge of the upstream was relayed")
	}
}
