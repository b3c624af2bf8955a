package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Exchanges are tried on the next upstream before any client, of whatever protocol,
// sees anything of it.
func TestUpstreamChaos_FailoverOfAllClients(t *testing.T) {
	checkLeaks(t)
	dead := newFakeUpstream(t, func(*originConn, *originRequest) bool { return false })
	good := newForwarder(t, "ok")
	p := start(t, mode{access: true}, setup{egress: group("lb_policy first\ncircuit {\n consecutive_failures 1000\n min_samples 1000\n}\n", dead.addr, good.addr)})
	eachClient(t, p, func(t *testing.T, c *client) {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			before := dead.asked() + good.asked()
			r := c.newRequest(t, method, "http://o.test/", nil)
			if method == "PUT" {
				r = c.newRequest(t, method, "http://o.test/", strings.NewReader(strings.Repeat("b", 5000)))
			}
			c.do(t, r).expect(t, 200, "ok")
			if n := dead.asked() + good.asked() - before; n != 2 {
				t.Errorf("%s was sent %d times, want 2", method, n)
			}
		}
		r := c.newRequest(t, "POST", "http://o.test/", strings.NewReader("x"))
		expectError(t, c.do(t, r).Response, 502, "connection_terminated")
	})
}

// Many clients of all protocols, upstreams that do everything wrong that they can,
// clients that leave, and reloads meanwhile: no unsafe request is seen twice, every
// request ends, and in the end nothing is counted as under way any more.
func TestUpstreamChaos(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	seen := &seenRequests{n: make(map[string]int)}
	var mu sync.Mutex
	rnd, calm := rand.New(rand.NewPCG(1, 2)), false
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		if calm {
			return n
		}
		return rnd.IntN(n)
	}
	upstream := func() string {
		u := newRawOrigin(t, func(oc *originConn) {
			if draw(20) == 0 {
				oc.reset()
				return
			}
			for {
				r := oc.request()
				if r.method == "POST" && seen.saw(r.target) > 1 {
					t.Errorf("%s was seen twice", r.target)
				}
				switch draw(12) {
				case 0:
					return
				case 1:
					oc.reset()
					return
				case 2:
					oc.send("HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n")
				case 3:
					oc.send("HTTP/1.1 503 x\r\nProxy-Status: x; error=connection_limit_reached\r\nContent-Length: 0\r\n\r\n")
				case 4:
					oc.send("nonsense\r\n\r\n")
					return
				default:
					if r.method == "CONNECT" {
						tunnelTo(oc, r.target, "HTTP/1.1 200 OK\r\n\r\n")
						return
					}
					oc.ok("ok")
				}
			}
		})
		return "http://" + u.addr + " {\n max_tunnels 2\n max_conns 2\n}"
	}
	upstreams := []string{upstream(), upstream(), upstream()}
	plain, storage := freeAddr(t), t.TempDir()
	logs := newLogCapture(t)
	config := func(name string) string {
		return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n log\n egress {\nserver_name %s\n%s}\n}\n",
			globals{grace: "5s", storage: storage, more: logs.asDefault()}, port(plain), name, "destination_circuit off\n"+group("hedge\nlb_retries 2\ncircuit {\n open_for 10ms\n max_open_for 10ms\n}\n", upstreams...))
	}
	load(t, config("a"))
	p := &proxy{plain: plain, logs: logs}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 40 {
				chaosRequest(t, p, echo.addr, fmt.Sprintf("/%d-%d", worker, i), draw(6))
			}
		})
	}
	for i := range 4 {
		if err := tryLoad(t, config(fmt.Sprintf("r%d", i))); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	mu.Lock()
	calm = true
	mu.Unlock()
	// All six slots are free: as many tunnels can be open at once, and no more.
	c := p.client(t, "h1")
	var tunnels []*tunnel
	for range 6 {
		tunnels = append(tunnels, p.openWhenHealthy(t, c, echo.addr))
	}
	resp, _ := c.connect(t, echo.addr, "", nil)
	expectStatus(t, resp, 503)
	for _, tun := range tunnels {
		closeTunnel(t, tun)
	}
}

func expectStatus(t *testing.T, resp *http.Response, status int) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("%s, want %d", resp.Status, status)
	}
}

// openWhenHealthy opens a tunnel, in spite of circuits that are still open.
func (p *proxy) openWhenHealthy(t *testing.T, c *client, target string) *tunnel {
	t.Helper()
	for range 1000 {
		if resp, tun := c.connect(t, target, "", nil); resp.StatusCode == http.StatusOK {
			return tun
		}
	}
	t.Fatal("a slot was never given back")
	return nil
}

// chaosRequest makes one request of some kind, and expects no more than its end.
func chaosRequest(t *testing.T, p *proxy, echo, target string, kind int) {
	conn, err := net.DialTimeout("tcp", p.plain, patience)
	if err != nil {
		return // in the queue of a listener that a reload gave up
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	raw := conn.(*net.TCPConn)
	switch kind {
	case 0, 1:
		fmt.Fprintf(raw, "GET http://o.test%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
	case 2:
		fmt.Fprintf(raw, "POST http://o.test%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", target)
	case 3: // leaves at once
		fmt.Fprintf(raw, "GET http://o.test%s HTTP/1.1\r\nHost: x\r\n\r\n", target)
		return
	case 4:
		fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\nping", echo)
		_ = raw.CloseWrite()
	default: // leaves a tunnel at once
		fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\nping", echo)
		return
	}
	if _, err := io.Copy(io.Discard, raw); isTimeout(err) {
		t.Errorf("%s (%d) never ends", target, kind)
	}
}
