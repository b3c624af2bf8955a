package integration

import (
	"net"
	"strconv"
	"testing"
)

// A destination that refuses again and again is given a pause: 503 with
// Retry-After and no dial, also when it is there again.
func TestCircuit_Opens(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 5\n window 10m\n open_for 10m\n max_open_for 10m\n}\n"})
		dead := refusedAddr(t)
		c := p.client(t, "h1")
		for range 5 {
			expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
		}
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

		revived := revive(t, dead)
		expectError(t, c.get(t, "http://"+dead+"/").Response, 503, "destination_unavailable")
		if revived.count() > 0 {
			t.Error("dialed while the circuit was open")
		}
	})
}

// After open_for one probe decides.
func TestCircuit_Probes(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 5\n window 10m\n open_for 300ms\n max_open_for 1s\n}\n"})
		dead := refusedAddr(t)
		c := p.client(t, "h1")
		eventually(t, "the circuit to open", func() bool {
			return c.get(t, "http://"+dead+"/").StatusCode == 503
		})
		revive(t, dead)
		eventually(t, "the probe", func() bool {
			return c.get(t, "http://"+dead+"/").StatusCode == 200
		})
		for range 3 {
			c.get(t, "http://"+dead+"/").expect(t, 200, "back")
		}
	})
}

// revive lets a destination answer that refused connections.
func revive(t *testing.T, addr string) *rawOrigin {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveRaw(t, ln, func(oc *originConn) {
		for {
			oc.request()
			oc.ok("back")
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
