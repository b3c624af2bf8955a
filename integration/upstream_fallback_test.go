package integration

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// answers is a proxy that answers everything with a head, or closes where there is none.
func answers(t *testing.T, head string) *fakeUpstream {
	return newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		if head != "" {
			oc.send("HTTP/1.1 " + head + "\r\nContent-Length: 0\r\n\r\n")
		}
		return false
	})
}

// What one member of a group was sent does not leave directly, whatever the next one fails
// for: the origin may have made the first one fail.
func TestUpstreamFallback_NotDirectAfterSent(t *testing.T) {
	for name, head := range map[string]string{"closes": "", "407": "407 x\r\nProxy-Authenticate: Basic realm=x"} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			origin, requests := recorder(t, okResponse)
			first := answers(t, head)
			p := start(t, mode{}, setup{egress: group("lb_policy first\n", first.addr, refusedAddr(t)) + "route default fallback direct\n"})
			c := p.client(t, "h1")
			for range 3 {
				if resp := c.get(t, origin.url("/")); resp.StatusCode < 500 {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
			if first.asked() == 0 {
				t.Error("the first member was not asked")
			}
			if n := len(requests); n != 0 {
				t.Errorf("the origin was asked directly %d times", n)
			}
		})
	}
}

// A CONNECT has sent an origin nothing: whatever an upstream makes of it that may be its own
// failure, it leaves directly.
func TestUpstreamFallback_DirectConnect(t *testing.T) {
	for name, head := range map[string]string{"closes": "", "502": "502 x"} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			echo := newEchoOrigin(t)
			p := start(t, mode{}, setup{egress: group("", answers(t, head).addr) + "route default fallback direct\n"})
			tun := p.client(t, "h1").open(t, echo.addr)
			alive(t, tun, "the tunnel")
			tun.Close()
		})
	}
}

// Once the circuits of a destination are open, requests for it fall back as those did that
// have opened them.
func TestUpstreamFallback_OpenCircuit(t *testing.T) {
	refused := "502 x\r\nProxy-Status: x; error=connection_refused"
	for _, tc := range []struct {
		name   string
		one    string // "" for a member that is down
		two    string
		status int // once the circuits are open
	}{
		{"dead uplinks", "502 x", "502 x", 200},
		{"a dead destination", refused, refused, 503},
		{"a member that says that it is dead, and one that is down", refused, "", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			echo := newEchoOrigin(t)
			addr := func(head string) string {
				if head == "" {
					return refusedAddr(t)
				}
				return answers(t, head).addr
			}
			p := start(t, mode{}, setup{egress: "destination_circuit {\n failures 2\n window 10m\n open_for 10m\n max_open_for 10m\n}\n" +
				group("lb_policy first\ncircuit {\nopen_for 10m\nmax_open_for 10m\nmin_success_rate 0%\npanic_below 0%\n}\n", addr(tc.one), addr(tc.two)) + "route default fallback direct\n"})
			c := p.client(t, "h1")
			for i := range 20 {
				resp, tun := c.connect(t, echo.addr, "", nil)
				tun.Close()
				if i >= 12 && resp.StatusCode != tc.status {
					t.Errorf("CONNECT %d: %d, want %d", i, resp.StatusCode, tc.status)
				}
			}
		})
	}
}

// Clients that do not send the body of a request are no fault of an upstream that closes.
func TestUpstreamFailover_StalledUpload(t *testing.T) {
	checkLeaks(t)
	events := newTransitions(t)
	closes := newRawOrigin(t, func(oc *originConn) {
		var head []byte
		for !bytes.Contains(head, []byte("\r\n\r\n")) {
			b, err := oc.br.ReadByte()
			if err != nil {
				return
			}
			head = append(head, b)
		}
		if bytes.HasPrefix(head, []byte("GET")) {
			oc.ok("ok")
		}
	})
	p := start(t, mode{}, setup{
		egress: group("lb_policy first\ncircuit {\nopen_for 10m\n}\n", closes.addr, refusedAddr(t)),
		global: events.global(),
	})
	for i := range 8 {
		conn, err := net.Dial("tcp", p.plain)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST http://h%d.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", i)
		var answer [12]byte
		if _, err := conn.Read(answer[:]); err != nil || string(answer[:]) != "HTTP/1.1 502" {
			t.Errorf("%q, %v", answer, err)
		}
		conn.Close()
	}
	p.client(t, "h1").get(t, "http://o.test/").expect(t, 200, "ok")
}

// A connection that was dialed ahead, and given up by the upstream in the meantime, costs no
// request.
func TestUpstreamStandby_GivenUp(t *testing.T) {
	checkLeaks(t)
	events := newTransitions(t)
	up := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		if oc.number == 1 {
			return // as where both cross on the wire
		}
		oc.ok("ok")
	})
	p := start(t, mode{}, setup{
		egress: usual + "upstreams default {\nupstream http://" + up.addr + " {\nstandby 1\n}\n}\n",
		global: events.global(),
	})
	eventually(t, "the connection ahead", func() bool { return up.count() > 0 })
	p.client(t, "h1").get(t, "http://o.test/").expect(t, 200, "ok")
}

// A client over its limit takes no turn of a probe: the first who may ask has it.
func TestUpstreamLimits_ProbeIsLeft(t *testing.T) {
	checkLeaks(t)
	var well atomic.Bool
	release, arrived := newGate(), make(chan struct{}, 1)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		switch {
		case r.host == "slow.test":
			arrived <- struct{}{}
			oc.hold(release.c)
			oc.ok("ok")
		case well.Load():
			oc.ok("ok")
		default:
			oc.send("HTTP/1.1 502 x\r\nProxy-Status: x; error=connection_refused\r\nContent-Length: 0\r\n\r\n")
		}
		return true
	})
	p := start(t, mode{}, setup{egress: "destination_circuit {\n failures 2\n window 10m\n open_for 1s\n max_open_for 10m\n}\n" +
		"transport {\n max_per_client 1\n}\n" + group("", up.addr)})
	c := p.client(t, "h1")
	for range 2 {
		if resp := c.get(t, "http://x.test/"); resp.StatusCode != 502 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	expectError(t, c.get(t, "http://x.test/").Response, 503, "destination_unavailable")
	first := c.goTry(c.newRequest(t, "GET", "http://slow.test/", nil))
	await(t, arrived, "the first request")
	well.Store(true)
	time.Sleep(1100 * time.Millisecond) // the pause itself is the test
	for range 3 {
		expectError(t, c.get(t, "http://x.test/").Response, 503, "connection_limit_reached")
	}
	release.open()
	await(t, first, "the response").must(t).expect(t, 200, "ok")
	c.get(t, "http://x.test/").expect(t, 200, "ok")
}

// A parent that refuses a site with a 407, and opens tunnels to others, forbids the site: that
// is no way past it, as a 403 is none. Where its 407 may be a wrong password, it is.
func TestUpstreamFallback_ForbiddenWith407(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("others are reached: %t", known), func(t *testing.T) {
			checkLeaks(t)
			u := newScriptedUpstream(t, "parent")
			hosts := twoHostsOf(newEchoOrigin(t))
			refuse := answering(407, `Proxy-Authenticate: Basic realm="upstream"`)
			u.behave(func(w http.ResponseWriter, r *http.Request) bool {
				return (!known || r.Host == hosts[1]) && refuse(w, r)
			})
			p := start(t, mode{}, setup{egress: usual + withCredentials(groupOf("", u)) + "route default fallback direct\n"})
			c := p.client(t, "h1")
			resp, tun := c.connect(t, hosts[0], "", nil)
			if resp.StatusCode != 200 {
				t.Errorf("%s: status %d", hosts[0], resp.StatusCode)
			}
			tun.Close()
			for n := range 5 { // the later ones are kept away from it
				resp, tun := c.connect(t, hosts[1], "", nil)
				tun.Close()
				if forbidden := resp.StatusCode >= 500; forbidden != known {
					t.Errorf("request %d: status %d", n, resp.StatusCode)
				}
			}
		})
	}
}
