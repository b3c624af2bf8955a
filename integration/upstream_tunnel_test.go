package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// newSilentUpstream is a proxy that reads requests and never answers. It tells of each.
func newSilentUpstream(t *testing.T) (u *fakeUpstream, asked, gone chan struct{}) {
	asked, gone = make(chan struct{}, 100), make(chan struct{}, 100)
	u = newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		asked <- struct{}{}
		_ = oc.awaitEnd()
		gone <- struct{}{}
		return false
	})
	return u, asked, gone
}

// Bytes that come in one piece with the answer to CONNECT reach the client, and so do
// bytes that the client has sent with the request.
func TestUpstreamTunnel_EarlyBytes(t *testing.T) {
	checkLeaks(t)
	up := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		oc.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		b := make([]byte, 5)
		_, _ = io.ReadFull(oc, b)
		oc.send("<" + string(b) + ">")
		_ = oc.awaitEnd()
		return false
	})
	p := start(t, mode{access: true}, setup{egress: group("", up.addr)})
	eachClient(t, p, func(t *testing.T, c *client) {
		resp, tun := c.connect(t, "127.0.0.1:7", "early", nil)
		if resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		if got := readN(t, tun, 12); got != "hello<early>" {
			t.Errorf("got %q", got)
		}
		tun.Close()
	})
}

// upstream.md §1: CONNECT goes to another upstream as long as the client was told
// nothing, whatever the first has done; a refusal is final, and no answer of an
// upstream is relayed as our own challenge.
func TestUpstreamTunnel_Refusals(t *testing.T) {
	for _, tc := range []struct {
		name, reply    string
		elsewhere      bool
		status         int
		blame, errType string
	}{
		{"EOF", "", true, 502, "upstream", "connection_terminated"},
		{"garbage", "SSH-2.0\r\n\r\n", true, 502, "upstream", "http_protocol_error"},
		{"403", "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", false, 403, "policy", "http_request_denied"},
		{"407", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", true, 500, "upstream", "proxy_configuration_error"},
		{"429", "HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n", true, 503, "upstream", "connection_limit_reached"},
		{"502", "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n", true, 502, "network", "destination_unavailable"},
		{"502, DNS", "HTTP/1.1 502 x\r\nProxy-Status: a; error=dns_error\r\n\r\n", true, 502, "dns", "dns_error"},
		{"503", "HTTP/1.1 503 x\r\nRetry-After: 5\r\n\r\n", true, 503, "upstream", "connection_limit_reached"},
		{"504, timeout", "HTTP/1.1 504 x\r\nProxy-Status: a; error=connection_timeout\r\n\r\n", true, 504, "origin", "connection_timeout"},
		{"503, Squid", "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\n\r\n", true, 502, "origin", "connection_refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			bad := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
				oc.send(tc.reply)
				return false
			})
			echo, good := newEchoOrigin(t), newForwarder(t, "")
			options := "lb_policy first\ncircuit {\n consecutive_failures 1000\n min_samples 1000\n}\n"
			both := start(t, mode{access: true}, setup{egress: group(options, bad.addr, good.addr)})
			eachClient(t, both, func(t *testing.T, c *client) {
				resp, tun := c.connect(t, echo.addr, "", nil)
				if !tc.elsewhere {
					expectError(t, resp, tc.status, tc.errType)
					return
				}
				if resp.StatusCode != 200 {
					t.Fatalf("%s %v", resp.Status, resp.Header)
				}
				alive(t, tun, "the tunnel")
				tun.Close()
			})
			alone := start(t, mode{access: true}, setup{egress: group(options+"lb_retries off\n", "http://other:x@"+bad.addr)}) // other credentials: health of its own
			for i, kind := range []string{"h1", "h2", "h3"} {
				if tc.name == "407" && i > 0 {
					break // the third takes it out
				}
				resp, _ := alone.client(t, kind).connect(t, echo.addr, "", nil)
				expectError(t, resp, tc.status, tc.errType)
				if resp.Header.Get("Proxy-Authenticate") != "" {
					t.Error("a challenge was relayed")
				}
			}
			line := alone.logs.access(t, "CONNECT", echo.addr)
			if line.str("egress.blame") != tc.blame || line.str("egress.upstream") != "http://"+bad.addr {
				t.Errorf("%v", line["egress"])
			}
		})
	}
}

// A refused CONNECT closes one stream of a client, not its connection.
func TestUpstreamTunnel_RefusalClosesOneStream(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	up := newForwarder(t, "")
	p := start(t, mode{}, setup{egress: group("lb_retries off\n", up.addr)})
	c := p.client(t, "h2")
	tun := c.open(t, echo.addr)
	for range 3 {
		resp, _ := c.connect(t, refusedAddr(t), "", nil)
		expectError(t, resp, 502, "connection_refused")
	}
	alive(t, tun, "the tunnel")
	tun.Close()
}

// A slot of max_tunnels lives as long as its tunnel, on all protocols, and however the
// tunnel or the attempt to open it ends.
func TestUpstreamTunnel_MaxTunnels(t *testing.T) {
	checkLeaks(t)
	echo, up := newEchoOrigin(t), newForwarder(t, "")
	p := start(t, mode{access: true}, setup{egress: group("", "http://"+up.addr+" {\n max_tunnels 1\n}")})
	eachClient(t, p, func(t *testing.T, c *client) {
		for _, end := range []func(*tunnel){func(tun *tunnel) { tun.Close() }, func(tun *tunnel) { tun.Abort() }} {
			tun := p.openFree(t, c, echo.addr)
			resp, _ := c.connect(t, echo.addr, "", nil)
			expectError(t, resp, 503, "connection_limit_reached")
			end(tun)
		}
		resp, _ := c.connect(t, refusedAddr(t), "", nil) // an attempt that fails
		for resp.StatusCode == 503 {
			resp, _ = c.connect(t, refusedAddr(t), "", nil) // the tunnel before was still ending
		}
		expectError(t, resp, 502, "connection_refused")
		p.openFree(t, c, echo.addr).Close()
	})
}

// openFree opens a tunnel as soon as the one before has ended.
func (p *proxy) openFree(t *testing.T, c *client, target string) *tunnel {
	t.Helper()
	for range 1000 {
		resp, tun := c.connect(t, target, "", nil)
		if resp.StatusCode == http.StatusOK {
			return tun
		}
		if resp.StatusCode != 503 {
			t.Fatalf("%s %v", resp.Status, resp.Header)
		}
	}
	t.Fatal("the slot was never given back")
	return nil
}

// A client that leaves while its tunnel is being opened costs nobody anything: the
// attempt ends, the slot is free, the upstream is not charged.
func TestUpstreamTunnel_ClientLeaves(t *testing.T) {
	checkLeaks(t)
	up, asked, gone := newSilentUpstream(t)
	p := start(t, mode{access: true}, setup{egress: group("attempt_timeout 1m\ncircuit {\n consecutive_failures 1\n}\n", "http://"+up.addr+" {\n max_tunnels 1\n}", refusedAddr(t)+" {\n priority 9\n}")})
	for i := range 5 {
		raw := p.dialPlain(t)
		raw.send("CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n")
		await(t, asked, "the CONNECT")
		raw.abort()
		await(t, gone, "the end of the attempt")
		p.logs.wait(t, "the end of the request", func(logLine) bool {
			return len(p.logs.accessLines(func(l logLine) bool { return l.str("egress.blame") == "client" })) == i+1
		})
	}
	if s := p.logs.all(); strings.Contains(s, "circuit opened") {
		t.Error("the upstream was charged")
	}
}

// Each step of an attempt ends at its deadline, and the next upstream is tried.
func TestUpstreamTunnel_Deadlines(t *testing.T) {
	for _, tc := range []struct{ name, scheme, options string }{
		{"answer", "http", ""},
		{"TLS", "https", "{\n tls_insecure_skip_verify\n}"},
		{"PROXY protocol", "http", "{\n proxy_protocol v2\n}"},
		{"SOCKS", "socks5h", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			gone := make(chan struct{}, 8)
			dead := newRawOrigin(t, func(oc *originConn) {
				_ = oc.awaitEnd()
				gone <- struct{}{}
			})
			echo, good := newEchoOrigin(t), newForwarder(t, "ok")
			p := start(t, mode{access: true}, setup{egress: group("lb_policy first\nattempt_timeout 100ms\n", tc.scheme+"://"+dead.addr+" "+tc.options, good.addr)})
			tun := p.client(t, "h1").open(t, echo.addr)
			tun.Close()
			await(t, gone, "the end of the attempt")
			if tc.name == "TLS" || tc.name == "SOCKS" {
				p.client(t, "h1").get(t, "http://o.test/x").expect(t, 200, "ok")
				await(t, gone, "the end of the attempt")
			}
		})
	}
}

// Where one upstream takes longer than usual, a second one is asked beside it; the
// first to answer is used, and the other attempt ends without a trace.
func TestUpstreamTunnel_Hedge(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	slow, gone := newGate(), make(chan struct{}, 100)
	a := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		select {
		case <-slow.c:
			_ = oc.awaitEnd()
			gone <- struct{}{}
			return false
		default:
		}
		tunnelTo(oc, r.target, "HTTP/1.1 200 OK\r\n\r\n")
		return false
	})
	b := newForwarder(t, "")
	p := start(t, mode{access: true}, measured(group("lb_policy first\nhedge\nattempt_timeout 1m\n",
		"http://"+a.addr+" {\n max_tunnels 1\n}", "http://"+b.addr+" {\n max_tunnels 1\n}")))
	c := p.client(t, "h1")
	for range 25 {
		closeTunnel(t, p.openFree(t, c, echo.addr))
	}
	slow.open()
	asked := b.asked()
	for ended, deadline := 0, time.Now().Add(patience); ended < 5; {
		tun := p.openFree(t, c, echo.addr)
		alive(t, tun, "the tunnel")
		closeTunnel(t, tun)
		select {
		case <-gone: // the slower attempt of this tunnel, or of one before
			ended++
		default: // the slot of the one before was not free yet
		}
		if time.Now().After(deadline) {
			t.Fatal("the slower attempts do not end")
		}
	}
	if b.asked() < asked+5 {
		t.Errorf("the second upstream was asked %d times", b.asked()-asked)
	}
	if s := p.logs.all(); strings.Contains(s, "circuit opened") {
		t.Error("the loser was charged")
	}
	won := 0.
	for name, n := range p.scrape(t) {
		if strings.HasPrefix(name, "hedges_total{") && strings.Contains(name, `result="won"`) {
			won += n
		}
		if strings.HasPrefix(name, "retries_total{") && strings.Contains(name, `kind="tunnel"`) {
			t.Error("hedges are no retries:", name, n)
		}
	}
	if won < 5 {
		t.Errorf("%v hedges have won", won)
	}
}

// The next upstreams are tried as often, and for as long, as the group says.
func TestUpstreamTunnel_Retries(t *testing.T) {
	for _, tc := range []struct {
		options  string
		attempts float64
	}{
		{"", 3},
		{"lb_retries off\n", 1},
		{"lb_retries 1\n", 2},
		{"lb_retries 4\n", 5},
		{"lb_retries 4\nretry_budget 0%\n", 5}, // three at any time, whatever the share
		{"lb_try_duration 100ms\nlb_try_interval 1m\n", 1},
		{"lb_try_interval 1ms\n", 3},
	} {
		t.Run(strings.ReplaceAll(tc.options, "\n", ","), func(t *testing.T) {
			checkLeaks(t)
			var upstreams []string
			for range 6 {
				upstreams = append(upstreams, newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool { return false }).addr)
			}
			p := start(t, mode{access: true}, setup{egress: group(tc.options, upstreams...)})
			resp, _ := p.client(t, "h1").connect(t, "127.0.0.1:9", "", nil)
			expectError(t, resp, 502, "connection_terminated")
			line := p.logs.access(t, "CONNECT", "127.0.0.1:9")
			if n := line.num("egress.attempts"); n != tc.attempts {
				t.Errorf("%v attempts, want %v", n, tc.attempts)
			}
		})
	}
}

// Every upstream that a group has is described without its credentials, wherever.
func TestUpstreamTunnel_NoCredentialsInLogs(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{access: true}, setup{egress: group("", "http://alice:s3cr3t@"+refusedAddr(t), "socks5h://bob:s3cr3t@"+refusedAddr(t))})
	for i := range 8 {
		resp, _ := p.client(t, "h1").connect(t, fmt.Sprintf("127.0.0.1:%d", 1000+i), "", nil)
		resp.Body.Close()
		var b strings.Builder
		_ = resp.Header.Write(&b)
		if strings.Contains(b.String(), "s3cr3t") {
			t.Errorf("the client was told: %s", b.String())
		}
		p.logs.access(t, "CONNECT", fmt.Sprintf("127.0.0.1:%d", 1000+i))
	}
	if strings.Contains(p.logs.all(), "s3cr3t") || strings.Contains(p.logs.all(), "czNjcjN0") {
		t.Error("credentials are in the log")
	}
}
