package integration

import (
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// A destination that failed through all upstreams is well again, but slow to answer, and
// the first who asks for it leaves at once, again and again: a probe goes on to its end
// without its client, and opens the way for the others.
func TestUpstreamProbe_ClientLeaves(t *testing.T) {
	checkLeaks(t)
	var dead atomic.Bool
	dead.Store(true)
	probed, release := make(chan struct{}, 16), newGate()
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if dead.Load() {
			oc.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			return false
		}
		probed <- struct{}{}
		oc.hold(release.c)
		oc.send("HTTP/1.1 200 OK\r\n\r\n")
		return false
	})
	p := start(t, mode{}, setup{egress: "destination_circuit {\n failures 2\n window 10m\n open_for 300ms\n max_open_for 300ms\n}\n" +
		group("", up.addr)})
	c := p.client(t, "h1")
	ask := func() int {
		resp, tun := c.connect(t, "x.test:443", "", nil)
		tun.Close()
		return resp.StatusCode
	}
	for range 2 {
		ask()
	}
	if s := ask(); s != http.StatusServiceUnavailable {
		t.Fatalf("the circuit is not open: %d", s)
	}
	dead.Store(false)
	eventually(t, "the probe", func() bool {
		conn, err := net.Dial("tcp", p.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // leaves as soon as the probe is there
		fmt.Fprint(conn, "CONNECT x.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
		var answer [1]byte
		read := make(chan struct{})
		go func() { defer close(read); _, _ = conn.Read(answer[:]) }()
		select {
		case <-probed:
			return true
		case <-read:
			return false
		}
	})
	release.open()
	p.logs.wait(t, "the end of the probe, with nobody else asking", func(l logLine) bool {
		return l.str("msg") == "destination is reachable again: circuit closed"
	})
	if s := ask(); s != http.StatusOK {
		t.Errorf("status %d", s)
	}
}
