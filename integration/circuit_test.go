package integration

import (
	"net"
	"strconv"
	"testing"
	"time"
)

// A destination that refuses again and again is given a pause: 503 with
// Retry-After and no dial; after open_for one probe decides.
func TestCircuit_OpensAndProbes(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const openFor = 1500 * time.Millisecond
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 5\n window 1m\n open_for 1500ms\n max_open_for 5s\n}\n"})
		dead := refusedAddr(t)
		c := p.client(t, "h1")
		for range 5 {
			expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
		}
		opened := time.Now()
		resp := c.get(t, "http://"+dead+"/")
		expectError(t, resp.Response, 503, "destination_unavailable")
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
		}
		tunResp, tun := c.connect(t, dead, "", nil)
		expectError(t, tunResp, 503, "destination_unavailable")
		tun.Close()

		// Another destination is none the worse for it.
		origin, _ := recorder(t, okResponse)
		c.get(t, origin.url("/")).expect(t, 200, "ok")

		// The destination comes back; the probe finds it.
		ln, err := net.Listen("tcp", dead)
		if err != nil {
			t.Fatal(err)
		}
		revived := serveRaw(t, ln, func(oc *originConn) {
			for {
				oc.request()
				oc.ok("back")
			}
		})
		if time.Since(opened) < openFor/2 {
			expectError(t, c.get(t, "http://"+dead+"/").Response, 503, "destination_unavailable")
			if revived.count() > 0 {
				t.Error("dialed while the circuit was open")
			}
		}
		deadline := time.Now().Add(patience)
		for {
			resp = c.get(t, "http://"+dead+"/")
			if resp.StatusCode == 200 || time.Now().After(deadline) {
				break
			}
			time.Sleep(20 * time.Millisecond) // the circuit's clock is not ours
		}
		resp.expect(t, 200, "back")
		for range 3 {
			c.get(t, "http://"+dead+"/").expect(t, 200, "back")
		}
	})
}

// off means that every request dials.
func TestCircuit_Off(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit off\n"})
		dead := refusedAddr(t)
		c := p.client(t, "h1")
		for range 12 {
			expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
		}
	})
}
