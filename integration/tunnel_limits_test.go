package integration

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// openEventually asks for a tunnel until it is given: a slot comes back a moment
// after the tunnel's end can be seen.
func openEventually(t *testing.T, c *client, target string, header http.Header) *tunnel {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		resp, tun := c.connect(t, target, "", header)
		if resp.StatusCode == 200 {
			return tun
		}
		expectLimit(t, resp)
		tun.Close()
	}
	t.Fatal("the slot did not come back")
	return nil
}

// refused fails the test unless a tunnel is refused at once for a limit.
func refused(t *testing.T, c *client, target string, header http.Header) {
	t.Helper()
	resp, tun := c.connect(t, target, "", header)
	expectLimit(t, resp)
	tun.Close()
}

// A tunnel holds its slot until it is closed and not until the handler returns
// (smokescreen #284); over a limit there is a 503 at once, and the destination is
// not charged.
func TestTunnelLimits_SlotLivesAsLongAsTheTunnel(t *testing.T) {
	for _, word := range []string{"max_tunnels", "max_per_client", "max_per_user"} {
		t.Run(word, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: "basic_auth ann pw\nbasic_auth bob pw\n" + openLoopback +
					"destination_circuit {\n failures 2\n open_for 1m\n}\ntunnel {\n " + word + " 2\n}\n"})
				ann := http.Header{"Proxy-Authorization": {basic("ann", "pw")}}
				bob := http.Header{"Proxy-Authorization": {basic("bob", "pw")}}
				eachClient(t, p, func(t *testing.T, c *client) {
					origin := newEchoOrigin(t)
					open := func(header http.Header) *tunnel {
						tun := openEventually(t, c, origin.addr, header)
						alive(t, tun, "the tunnel")
						return tun
					}
					first, second := open(ann), open(ann)
					before := origin.count()
					for range 3 {
						refused(t, c, origin.addr, ann)
					}
					if word == "max_per_user" {
						open(bob).Close()
					} else {
						refused(t, c, origin.addr, bob)
						if origin.count() != before {
							t.Error("the destination was dialed for a refused tunnel")
						}
					}
					if m.access {
						line := p.logs.wait(t, "the refusal", func(l logLine) bool {
							return l.isAccess() && l.str("request.host") == origin.addr && l.num("status") == 503
						})
						if line.str("egress.reason") != "connection_limit_reached" {
							t.Errorf("logged as %v", line["egress"])
						}
					}
					first.Close()
					third := open(ann)
					refused(t, c, origin.addr, ann)
					second.Close()
					third.Close()
					open(ann).Close()
				})
			})
		})
	}
}

// A failed dial gives the slot back.
func TestTunnelLimits_FailedDial(t *testing.T) {
	p := start(t, modes[0], setup{egress: usual + "destination_circuit off\ntunnel {\n max_tunnels 1\n max_per_client 1\n}\n"})
	nobody := refusedAddr(t)
	eachClient(t, p, func(t *testing.T, c *client) {
		for range 3 {
			resp, tun := c.connect(t, nobody, "", nil)
			expectError(t, resp, 502, "connection_refused")
			tun.Close()
		}
	})
	// Behind all the others: it gives its slot back a moment after its end.
	p.client(t, "h1").open(t, newEchoOrigin(t).addr).Close()
}

// Clients are told apart by their address.
func TestTunnelLimits_PerClient(t *testing.T) {
	p := start(t, modes[0], setup{egress: usual + "tunnel {\n max_per_client 1\n}\n"})
	origin := newEchoOrigin(t)
	c := p.client(t, "h1")
	tun := c.open(t, origin.addr)
	defer tun.Close()
	refused(t, c, origin.addr, nil)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other, err := d.Dial("tcp", p.plain)
	if err != nil {
		t.Skip(err) // no second loopback address
	}
	defer other.Close()
	fmt.Fprintf(other, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", origin.addr)
	head := make([]byte, 12)
	if _, err := io.ReadFull(other, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Errorf("another client got %q, %v", head, err)
	}
}

// Tunnels of an old configuration count in the new one, also where the limit is
// another one there, and what is counted is forgotten with the last of them.
func TestTunnelLimits_OverReload(t *testing.T) {
	checkLeaks(t)
	plain, storage := freeAddr(t), t.TempDir()
	config := func(name string, limit int) string {
		return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n egress {\n server_name %s\n %s tunnel {\n max_tunnels %d\n max_per_client %d\n}\n}\n}\n",
			globals{grace: "2s", storage: storage}, port(plain), name, usual, limit, limit)
	}
	reload := func(name string, limit int) {
		t.Helper()
		if err := tryLoad(t, config(name, limit)); err != nil {
			t.Fatal(err)
		}
	}
	load(t, config("caddy", 1))
	p := &proxy{mode: modes[0], plain: plain}
	c := p.client(t, "h1")
	origin := newEchoOrigin(t)
	first := c.open(t, origin.addr)
	refused(t, c, origin.addr, nil)

	reload("fresh", 1) // another configuration, the same handler
	resp, tun := c.connect(t, origin.addr, "", nil)
	if resp.StatusCode != 503 {
		t.Errorf("status %d: the tunnel of the old configuration does not count", resp.StatusCode)
	}
	tun.Close()
	reload("caddy", 2)
	second := c.open(t, origin.addr)
	refused(t, c, origin.addr, nil)
	reload("caddy", 1)
	first.Close()
	// The second is still there, and one is all there may be.
	write(t, second, "ping")
	readN(t, second, 4)
	refused(t, c, origin.addr, nil)
	second.Close()
	openEventually(t, c, origin.addr, nil).Close()
}

// Rates bound what arrives by time, in each direction by itself, whatever the
// client speaks; the bytes are all there, and the log counts them.
func TestTunnelRates(t *testing.T) {
	const bps, burst, size = 1 << 20, 1 << 18, 1<<20 + 7
	eachMode(t, func(t *testing.T, m mode) {
		for _, word := range []string{"rate_per_tunnel", "rate_per_user"} {
			t.Run(word, func(t *testing.T) {
				users := ""
				for _, kind := range clientKinds {
					users += "basic_auth " + kind + " pw\n"
				}
				p := start(t, m, setup{egress: users + openLoopback + "tunnel {\n " + word + " 1MiB\n}\n"})
				for _, kind := range clientKinds {
					t.Run(kind, func(t *testing.T) {
						t.Parallel() // each user by itself
						user := http.Header{"Proxy-Authorization": {basic(kind, "pw")}}
						data := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
						var began, arrived atomic.Int64 // when the tunnel was asked for; bytes at the origin
						bound := func(n int64, what string) {
							if most := burst + bps*time.Since(time.Unix(0, began.Load())).Seconds(); float64(n) > math.Ceil(most) {
								t.Errorf("%s: %d bytes have arrived; at most %.0f may have", what, n, most)
							}
						}
						origin := newRawOrigin(t, func(oc *originConn) {
							go func() { oc.Conn.Write(data) }()
							buf := make([]byte, 32<<10)
							for arrived.Load() < size {
								n, err := oc.br.Read(buf)
								bound(arrived.Add(int64(n)), "up")
								if err != nil {
									return
								}
							}
							_ = oc.awaitEnd()
						})
						began.Store(time.Now().UnixNano())
						resp, tun := p.client(t, kind).connect(t, origin.addr, "", user)
						if resp.StatusCode != 200 {
							t.Fatalf("status %d", resp.StatusCode)
						}
						written := make(chan error, 1)
						go func() { _, err := tun.Write(data); written <- err }()
						got := make([]byte, 0, size)
						for len(got) < size {
							n, err := tun.Read(got[len(got):size])
							got = got[:len(got)+n]
							bound(int64(len(got)), "down")
							if err != nil {
								t.Fatal(err)
							}
						}
						if err := await(t, written, "the upload"); err != nil || !bytes.Equal(got, data) {
							t.Errorf("upload: %v; or other bytes came down", err)
						}
						if err := tun.CloseWrite(); err != nil {
							t.Fatal(err)
						}
						if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
							t.Errorf("the tunnel ended with %d bytes, %v", len(rest), err)
						}
						if n := arrived.Load(); n != size {
							t.Errorf("%d bytes arrived at the origin; want %d", n, size)
						}
						if m.access {
							line := p.logs.wait(t, "the tunnel", func(l logLine) bool {
								return l.isAccess() && l.str("request.host") == origin.addr
							})
							if up, down := line.num("egress.bytes_up"), line.num("egress.bytes_down"); up != size || down != size {
								t.Errorf("logged %v up, %v down; want %d", up, down, size)
							}
						}
					})
				}
			})
		}
	})
}

// All tunnels of a user through a handler share a rate.
func TestTunnelRates_SharedByUser(t *testing.T) {
	const bps, burst = 256 << 10, 64 << 10
	p := start(t, modes[0], setup{egress: "basic_auth ann pw\n" + openLoopback + "tunnel {\n rate_per_user 256KiB\n}\n"})
	ann := http.Header{"Proxy-Authorization": {basic("ann", "pw")}}
	origin := newRawOrigin(t, func(oc *originConn) {
		_, _ = oc.Conn.Write(make([]byte, 128<<10))
		_ = oc.awaitEnd()
	})
	var total atomic.Int64
	began := time.Now()
	done := make(chan struct{})
	kinds := []string{"h1tls", "h1tls", "h2", "h3"} // the server in clear has a handler of its own
	for _, kind := range kinds {
		resp, tun := p.client(t, kind).connect(t, origin.addr, "", ann)
		if resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		go func() {
			defer func() { done <- struct{}{} }()
			buf := make([]byte, 16<<10)
			for left := 128 << 10; left > 0; {
				n, err := tun.Read(buf)
				if got, most := total.Add(int64(n)), burst+bps*time.Since(began).Seconds(); float64(got) > math.Ceil(most) {
					t.Errorf("%d bytes have arrived in all; at most %.0f may have", got, most)
				}
				if err != nil {
					t.Errorf("%s: %v, %d bytes missing", kind, err, left)
					return
				}
				left -= n
			}
			tun.Close()
		}()
	}
	for range kinds {
		await(t, done, "all bytes")
	}
}

// CONNECT has as many fields as other requests may have.
func TestTunnel_TooManyFields(t *testing.T) {
	p := start(t, mode{}, setup{egress: usual})
	echo := newEchoOrigin(t)
	raw := p.dialPlain(t)
	raw.send("CONNECT " + echo.addr + " HTTP/1.1\r\nHost: " + echo.addr + "\r\n" + strings.Repeat("X: 1\r\n", 1001) + "\r\n")
	if resp := raw.responseHead("CONNECT"); resp.StatusCode != 431 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
