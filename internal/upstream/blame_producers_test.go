package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/selection"
)

// producer is somebody who can have brought about what was seen: who has written it, or
// can make the one who has.
type producer uint8

const (
	byUpstream producer = 1 << iota // of itself, whoever asks for what
	byOrigin                        // relayed, or because of what it does
	byClient                        // by what it asks for
)

// seen is what comes back from an upstream, and who can have brought it about.
type seen struct {
	name  string
	bytes string // then the connection ends
	by    producer
}

// answersToConnect come from the upstream; but for which destination it fails is the
// client's choice, and how is up to that. (Refused credentials have a rule of their own,
// which internal/health tests: each further attempt may lock the account.)
var answersToConnect = []seen{
	{"nothing", "", byUpstream | byOrigin | byClient},
	{"half a head", "HTTP/1.1 200", byUpstream | byOrigin | byClient},
	{"no HTTP", "SSH-2.0-x\r\n\r\n", byUpstream},
	{"400", "HTTP/1.1 400 x\r\n\r\n", byClient},
	{"401", "HTTP/1.1 401 x\r\n\r\n", byUpstream},
	{"403", "HTTP/1.1 403 x\r\n\r\n", byClient},
	{"405", "HTTP/1.1 405 x\r\n\r\n", byUpstream | byClient},
	{"407", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", byUpstream},
	{"429", "HTTP/1.1 429 x\r\nRetry-After: 9\r\n\r\n", byUpstream | byClient},
	{"431", "HTTP/1.1 431 x\r\n\r\n", byClient},
	{"500", "HTTP/1.1 500 x\r\n\r\n", byUpstream | byOrigin | byClient},
	{"502", "HTTP/1.1 502 x\r\n\r\n", byUpstream | byOrigin | byClient},
	{"503", "HTTP/1.1 503 x\r\nRetry-After: 9\r\n\r\n", byUpstream | byClient},
	{"internal error", "HTTP/1.1 500 x\r\nProxy-Status: up; error=proxy_internal_error\r\n\r\n", byUpstream | byClient},
	{"configuration error", "HTTP/1.1 500 x\r\nProxy-Status: up; error=proxy_configuration_error\r\n\r\n", byUpstream | byClient},
	{"no sockets left", "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_SOCKET_FAILURE 24\r\n\r\n", byUpstream | byClient},
	{"refused", "HTTP/1.1 502 x\r\nProxy-Status: up; error=connection_refused\r\n\r\n", byUpstream | byOrigin | byClient},
	{"no DNS", "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", byUpstream | byOrigin | byClient},
	{"loop", "HTTP/1.1 508 x\r\nProxy-Status: up; error=proxy_loop_detected\r\n\r\n", byClient},
	{"limit", "HTTP/1.1 503 x\r\nProxy-Status: up; error=connection_limit_reached\r\n\r\n", byUpstream | byClient},
	{"unknown error", "HTTP/1.1 502 x\r\nProxy-Status: up; error=new_error\r\n\r\n", byUpstream | byOrigin | byClient},
}

// answersToExchanges may all be an origin's, relayed, whatever they say.
var answersToExchanges = []seen{
	{"200", "HTTP/1.1 200 x\r\n\r\n", byOrigin},
	{"401 of tinyproxy", "HTTP/1.1 401 x\r\nServer: tinyproxy/1.11.1\r\n\r\n", byUpstream | byOrigin},
	{"403", "HTTP/1.1 403 x\r\nProxy-Status: up; error=http_request_denied\r\n\r\n", byUpstream | byOrigin},
	{"407", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", byUpstream | byOrigin},
	{"407 behind Via", "HTTP/1.1 407 x\r\nVia: 1.1 up\r\nProxy-Authenticate: Basic\r\n\r\n", byUpstream | byOrigin},
	{"429", "HTTP/1.1 429 x\r\nRetry-After: 3600\r\nProxy-Status: up; error=connection_limit_reached\r\n\r\n", byUpstream | byOrigin},
	{"internal error", "HTTP/1.1 500 x\r\nProxy-Status: up; error=proxy_internal_error\r\n\r\n", byUpstream | byOrigin},
	{"internal error behind Via", "HTTP/1.1 500 x\r\nVia: 1.1 up\r\nProxy-Status: up; error=proxy_internal_error\r\n\r\n", byUpstream | byOrigin},
	{"502", "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n", byUpstream | byOrigin},
	{"502 that names itself", "HTTP/1.1 502 x\r\nVia: 1.1 up\r\nProxy-Status: up; error=connection_refused\r\n\r\n", byUpstream | byOrigin},
	{"502, internal", "HTTP/1.1 502 x\r\nProxy-Status: up; error=proxy_internal_error\r\n\r\n", byUpstream | byOrigin},
	{"502 of Squid", "HTTP/1.1 502 x\r\nX-Squid-Error: ERR_SOCKET_FAILURE 24\r\n\r\n", byUpstream | byOrigin},
	{"503 of its upstreams", "HTTP/1.1 503 x\r\nProxy-Status: up; error=connection_refused; details=\"" + failure.NoUpstream.Text + "\"\r\n\r\n", byUpstream | byOrigin},
	{"503 with details", "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", byUpstream | byOrigin},
	{"504", "HTTP/1.1 504 x\r\nProxy-Status: up; error=connection_timeout\r\n\r\n", byUpstream | byOrigin},
}

// once is a connection over which the bytes come, and then the end.
func once(bytes string) net.Conn {
	near, far := net.Pipe()
	go func() {
		_, _ = http.ReadRequest(bufio.NewReader(far))
		if bytes != "" {
			_, _ = io.WriteString(far, bytes)
		}
		_ = far.Close()
	}()
	return near
}

// toConnect is what the answer to a CONNECT says, read as it is read from an upstream.
func (s *seen) toConnect(t *testing.T, m *Member) Verdict {
	t.Helper()
	d, err := proxydial.New(proxydial.Config{Scheme: proxydial.HTTP, Dial: func(context.Context) (net.Conn, error) { return once(s.bytes), nil }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.DialTunnel(t.Context(), proxydial.Target{Host: "origin.test", Port: 443}, proxydial.Client{})
	return m.JudgeTunnel(t.Context(), err)
}

// toExchange is what an answer to an exchange in absolute form says.
func (s *seen) toExchange(t *testing.T, authenticates bool) Verdict {
	t.Helper()
	c := once(s.bytes)
	defer c.Close()
	go func() { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }()
	conn := h1.NewConn(c)
	conn.Begin()
	defer conn.End()
	var hd h1.Head
	if err := conn.ReadHead(&hd, 64<<10); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	reply := proxydial.ReplyOf(&hd)
	if MadeByUpstream(&reply) {
		return JudgeAnswer(&reply, authenticates)
	}
	return JudgeRelayed(hd.Status, true)
}

// attack is one way to turn what was seen against an upstream that serves others: who
// asks, for which host, and whether the host answers through another upstream then.
type attack struct {
	name      string
	client    func(i int) string
	host      func(i int) string
	elsewhere bool
}

func attacks() []attack {
	one := func(int) string { return "192.0.2.1" }
	many := func(i int) string { return fmt.Sprintf("198.51.%d.1", i) }
	host := func(i int) string { return fmt.Sprintf("host.test:%d", 1+i%65535) }
	hosts := func(i int) string { return fmt.Sprintf("host%d.test:443", i) }
	return []attack{
		{"one client, many hosts", one, hosts, false},
		{"one client, many hosts, which others reach", one, hosts, true},
		{"many clients, one host", many, host, false},
		{"many clients, one host, which others reach", many, host, true},
	}
}

// ejects reports whether an upstream that serves somebody else every second, whose other
// members do as well, leaves the rotation under the attack.
func (a *attack) ejects(t *testing.T, v Verdict) (out bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, &Spec{}, &Spec{}, &Spec{})
		through := func(n int, who string, v Verdict, where string) {
			client := clientOf(&selection.Choice{ClientIP: who})
			g.Observe(Attempt{Member: g.Members()[n], client: client, started: time.Now()}, v, health.Destination(where))
		}
		for i := range 150 {
			if i%10 == 0 {
				for n := range g.Members() {
					through(n, "203.0.113.1", Stands, fmt.Sprintf("served%d.test:443", i))
				}
			}
			through(0, a.client(i), v, a.host(i))
			if a.elsewhere {
				through(1, a.client(i), Stands, a.host(i))
			}
			out = out || !g.Members()[0].Health.Available()
			time.Sleep(100 * time.Millisecond)
		}
	})
	return out
}

// isFound reports whether an upstream that gives this for all requests is out soon.
func isFound(t *testing.T, v Verdict) (out bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, &Spec{}, &Spec{}, &Spec{})
		for i := range 60 {
			client, to := clientOf(&selection.Choice{ClientIP: fmt.Sprintf("198.51.%d.1", i)}), health.Destination(fmt.Sprintf("host%d.test:443", i))
			for n := range g.Members() {
				is := Stands
				if n == 0 {
					is = v
				}
				g.Observe(Attempt{Member: g.Members()[n], client: client, started: time.Now()}, is, to)
			}
			out = out || !g.Members()[0].Health.Available()
			time.Sleep(100 * time.Millisecond)
		}
	})
	return out
}

// What an origin or a client can bring about takes no upstream out on its own that serves
// others, whatever it says and whoever has written it: through the parser and the table of
// blame to the health of the group. What only the upstream itself can have done does.
func TestBlame_Producers(t *testing.T) {
	m := &Member{Spec: new(Spec)} // of no group: health is kept by address, as long as somebody holds it
	verdicts := map[string]Verdict{}
	by := map[string]producer{}
	add := func(way string, s *seen, v Verdict) { verdicts[way+": "+s.name], by[way+": "+s.name] = v, s.by }
	for i := range answersToConnect {
		s := &answersToConnect[i]
		add("CONNECT", s, s.toConnect(t, m))
	}
	for i := range answersToExchanges {
		s := &answersToExchanges[i]
		add("exchange", s, s.toExchange(t, false))
		add("exchange with credentials", s, s.toExchange(t, true))
	}
	// As internal/core judges what ends an exchange before an answer.
	add("exchange", &seen{name: "end", by: byUpstream | byOrigin}, Verdict{Kind: health.Failure, Failure: failure.UpstreamTerminated, Relayed: true})
	add("exchange", &seen{name: "no HTTP", by: byUpstream | byOrigin}, Verdict{Kind: health.Failure, Failure: failure.UpstreamProtocol, Relayed: true})
	add("exchange", &seen{name: "end, of a POST", by: byUpstream | byOrigin}, Verdict{Kind: health.Failure, Failure: failure.UpstreamTerminated, Relayed: true, Alone: true})
	add("exchange", &seen{name: "silence", by: byUpstream | byOrigin}, Verdict{Kind: health.ReplyTimeout, Failure: failure.HeadTimeout})
	for name, v := range verdicts {
		others := by[name] &^ byUpstream
		for _, a := range attacks() {
			if others != 0 && a.ejects(t, v) {
				t.Errorf("%s: %s: the upstream is out (%v)", name, a.name, v.Kind)
			}
		}
		if others == 0 && !isFound(t, v) {
			t.Errorf("%s: only the upstream can have done that, and it stays (%v)", name, v.Kind)
		}
	}
	for _, name := range []string{"CONNECT: nothing", "CONNECT: 407", "CONNECT: internal error", "CONNECT: 502", "CONNECT: refused", "exchange: end", "exchange: no HTTP"} {
		if v, ok := verdicts[name]; !ok || !isFound(t, v) {
			t.Errorf("%s: an upstream that does so to everybody stays", name)
		}
	}
}
