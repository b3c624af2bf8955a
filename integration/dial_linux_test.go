package integration

import (
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// blackHole is an address that answers no SYN: a listener whose accept queue is
// full and stays so.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(sa.(*syscall.SockaddrInet4).Port))
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("a full accept queue does not stop connections here")
	return ""
}

// RFC 9209 §2.3: a destination that does not answer a SYN is a 504.
func TestDialTimeout_RFC9209_2_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit off\ntransport {\n dial_timeout 300ms\n}\n"})
		hole := blackHole(t)
		eachClient(t, p, func(t *testing.T, c *client) {
			expectError(t, c.get(t, "http://"+hole+"/").Response, 504, "connection_timeout")
			resp, tun := c.connect(t, hole, "", nil)
			expectError(t, resp, 504, "connection_timeout")
			tun.Close()
		})
	})
}

// A dial ends with the client that wanted it: its exchange or CONNECT is given
// up, and nothing of it is left (peer bug 11 and 12).
func TestDial_ClientGone(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 2\n open_for 1m\n}\ntransport {\n dial_timeout 1m\n}\n"})
		hole := blackHole(t)
		for _, method := range []string{"GET", "CONNECT"} {
			for range 3 { // charged to nobody: the circuit stays closed
				raw := p.dialPlain(t)
				target := hole
				if method == "GET" {
					target = "http://" + hole + "/"
				}
				raw.send(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
				awaitSynSent(t, hole, 1)
				raw.Conn.Close()
				awaitSynSent(t, hole, 0)
			}
		}
	})
}

// Of many requests for a destination whose pause is over, one is the probe and
// the others fail at once (upstream.md §5, scenario 24).
func TestCircuit_OneProbe(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 2\n window 1m\n open_for 200ms\n max_open_for 1m\n}\ntransport {\n dial_timeout 1s\n}\n"})
		hole := blackHole(t)
		c := p.client(t, "h1")
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if resp, err := c.try(c.newRequest(t, "GET", "http://"+hole+"/", nil)); err != nil || resp.StatusCode != 504 {
					t.Errorf("before: %v, %v", resp, err)
				}
			})
		}
		wg.Wait()
		time.Sleep(400 * time.Millisecond) // the circuit's clock is not ours

		var mu sync.Mutex
		got := map[int]int{}
		for i := range 20 {
			wg.Go(func() {
				var status int
				if i%2 == 0 {
					resp, err := c.try(c.newRequest(t, "GET", "http://"+hole+"/", nil))
					if err != nil {
						t.Error(err)
						return
					}
					status = resp.StatusCode
				} else {
					raw := p.dialPlain(t)
					status = raw.roundTrip("POST", "CONNECT "+hole+" HTTP/1.1\r\nHost: x\r\n\r\n").StatusCode
				}
				mu.Lock()
				defer mu.Unlock()
				got[status]++
			})
		}
		wg.Wait()
		if got[504] != 1 || got[503] != 19 {
			t.Errorf("statuses %v, want one 504 (the probe) and nineteen 503", got)
		}
	})
}

// fillQueue makes the port of ::1 a black hole, as blackHole does.
func fillQueue(t *testing.T, p string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	n, _ := strconv.Atoi(p)
	if err := syscall.Bind(fd, &syscall.SockaddrInet6{Port: n, Addr: [16]byte{15: 1}}); err != nil {
		t.Skip(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("::1", p), 200*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("a full accept queue does not stop connections here")
}
