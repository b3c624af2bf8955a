package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Overload: while clients or origins take what they can get, others are served,
// what is too much is refused at once with a 503 that says so, and when it is over
// the process holds what it held before. See docs/reliability.md.

// A process without descriptors refuses what would need one, and serves again when
// there are some.
func TestOverload_Descriptors(t *testing.T) {
	p := startAbused(t, "ulimit -n 256", "")
	origin, echo := healthy(t), newEchoOrigin(t)
	p.dial(t).ask(getOf(origin, "/"), patience)
	start := p.level(t)
	v := p.watch(t, origin, true, false)

	// Each wants two descriptors: together more than there are. Those that find
	// none for themselves wait to be accepted. Who is refused gives back what it
	// held, so more come until the process is full.
	abusers := 0
	var conns []*raw
	answered := make(chan reply, 10000)
	abuse := func(n int) {
		for range n {
			c := p.dial(t)
			conns = append(conns, c)
			go func() {
				answered <- c.ask("CONNECT "+echo.addr+" HTTP/1.1\r\nHost: x\r\n\r\n", time.Hour)
			}()
		}
		abusers += n
	}
	abuse(300)
	tunnels, shed, others, slowest := 0, 0, 0, time.Duration(0)
	var full level
	isFull := func() bool { return tunnels > 0 && shed > 0 && full.descriptors >= 230 }
	deadline := time.Now().Add(2 * patience)
	for collecting := true; collecting; {
		select {
		case r := <-answered:
			switch {
			case r.status == 200:
				tunnels++
			case r.shed:
				shed++
			default:
				others++
				t.Errorf("an abuser got %+v", r)
			}
			slowest = max(slowest, r.took)
		case <-time.After(2 * time.Second): // the others are not accepted, or the machine is slow
			full = p.level(t)
			collecting = !isFull() && time.Now().Before(deadline)
			if collecting && abusers == tunnels+shed+others {
				abuse(40)
			}
		}
	}
	t.Logf("%d tunnels, %d refused (the slowest after %s), %d not accepted, %d descriptors", tunnels, shed, slowest.Round(time.Millisecond), abusers-tunnels-shed, full.descriptors)
	if !isFull() {
		t.Error("the process did not run out of descriptors")
	}
	v.served(t)
	for _, c := range conns {
		c.Close()
	}
	for range abusers - tunnels - shed - others {
		<-answered
	}
	p.recovers(t, start)
	if r := p.dial(t).ask(getOf(origin, "/after"), patience); r.status != 200 || r.body != "fine /after" {
		t.Errorf("afterwards: %+v", r)
	}
}

// Clients that connect and say nothing, or begin a request and say no more, cost
// their connections and nothing else.
func TestOverload_SilentClients(t *testing.T) {
	p := startAbused(t, "true", "")
	origin := healthy(t)
	p.dial(t).ask(getOf(origin, "/"), patience)
	start := p.level(t)
	v := p.watch(t, origin, false, true)
	n := scaled(1000, 9000)
	var conns []*raw
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range n {
		c, err := p.tryDial()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if i%2 == 1 {
			_, _ = io.WriteString(c, "GET http://"+origin+"/ HTTP/1.1\r\nHost: x\r\nX-")
		}
	}
	var full level
	eventually(t, "all to be accepted", func() bool {
		full = p.level(t)
		return full.goroutines >= start.goroutines+n
	})
	t.Logf("%d connections: %.1f KiB each, %+v", n, float64(full.rssKiB-start.rssKiB)/float64(n), full)
	if grown := full.rssKiB - start.rssKiB; grown > memory(24*n+16<<10) {
		t.Errorf("%d silent connections take %d KiB", n, grown)
	}
	v.served(t)
	for _, c := range conns {
		c.Close()
	}
	p.recovers(t, start)
}

// Whoever reads slowly, or not at all, holds back the origin and not the memory of
// the proxy, also where that has a limit.
func TestOverload_SlowReaders(t *testing.T) {
	p := startAbused(t, "true", "transport {\n max_conns_per_host off\n}\n", "GOMEMLIMIT=96MiB")
	origin := healthy(t)
	body, _ := flood(t, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
	stream, _ := flood(t, "")
	p.dial(t).ask(getOf(origin, "/"), patience)
	start := p.level(t)
	v := p.watch(t, origin, false, true)
	n := scaled(60, 300)
	var wg sync.WaitGroup
	conns := make([]*raw, n)
	for i := range n {
		conns[i] = p.dial(t)
		wg.Go(func() {
			request := getOf(body.addr, "/")
			if i%2 == 1 {
				request = "CONNECT " + stream.addr + " HTTP/1.1\r\nHost: x\r\n\r\n"
			}
			_ = conns[i].SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conns[i], request)
			if line, err := conns[i].br.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200 ") {
				t.Errorf("a reader got %q, %v", line, err)
			}
		})
	}
	wg.Wait()
	for range 10 { // a little each, all the time
		for _, c := range conns {
			_, _ = io.CopyN(io.Discard, c.br, 8<<10)
		}
	}
	full := p.level(t)
	t.Logf("%d slow readers: %+v, %+v before", n, full, start)
	if grown := full.rssKiB - start.rssKiB; grown > memory(96*n+32<<10) {
		t.Errorf("%d slow readers take %d KiB", n, grown)
	}
	v.served(t)
	for _, c := range conns {
		c.Close()
	}
	p.recovers(t, start)
}

// Clients that send their bodies a byte at a time keep the connections of an origin
// busy: others are refused there once they have waited, and served elsewhere.
// Uploads to an origin that does not read them end.
func TestOverload_SlowWriters(t *testing.T) {
	p := startAbused(t, "true", "transport {\n pending_timeout 500ms\n response_header_timeout 2s\n}\ndestination_circuit off\n")
	origin := healthy(t)
	slow, taken := mute(t)
	deaf, _ := mute(t)
	p.dial(t).ask(getOf(origin, "/"), patience)
	start := p.level(t)
	v := p.watch(t, origin, false, true)

	const slots = 64 // max_conns_per_host
	const stuck = 32
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	post := func(addr string) *raw {
		c := p.dial(t)
		_, _ = fmt.Fprintf(c, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", addr)
		return c
	}
	for range slots {
		c := post(slow)
		wg.Go(func() {
			defer c.Close()
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					_, _ = c.Write([]byte("x"))
				}
			}
		})
	}
	eventually(t, "the connections of the origin to be taken", func() bool { return taken.Load() == slots })
	if r := p.dial(t).ask(getOf(slow, "/"), patience); !r.shed || r.took < 400*time.Millisecond {
		t.Errorf("one more request for that origin got %+v", r)
	}

	answered := make(chan reply, stuck)
	for range stuck {
		c := post(deaf)
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(3 * patience))
			_, _ = io.Copy(c, zeros{}) // as much as it takes
			answered <- c.answer()
		}()
	}
	for range stuck {
		if r := <-answered; r.status != 504 && (r.err == nil || errors.Is(r.err, os.ErrDeadlineExceeded)) {
			t.Errorf("an upload that the origin does not read got %+v", r)
		}
	}
	v.served(t)
	close(stop)
	wg.Wait()
	p.recovers(t, start)
}

// An origin that never answers gets the connections it may have, a queue, and no
// more: the rest is refused at once, and nobody else notices.
func TestOverload_DeadOrigin(t *testing.T) {
	for name, origin := range map[string]func(*testing.T) string{
		"never answers": func(t *testing.T) string { addr, _ := mute(t); return addr },
		"black hole":    blackHole,
	} {
		t.Run(name, func(t *testing.T) {
			// None of these ends while the test asks, however slow the machine.
			p := startAbused(t, "true", "transport {\n dial_timeout 1h\n response_header_timeout 1h\n pending_timeout 1h\n}\n")
			fine, dead := healthy(t), origin(t)
			p.dial(t).ask(getOf(fine, "/"), patience)
			start := p.level(t)
			v := p.watch(t, fine, false, true)
			n := scaled(1000, 5000)
			replies := make(chan reply, n)
			conns := make([]*raw, n)
			for i := range n {
				conns[i] = p.dial(t)
			}
			for _, c := range conns {
				go func() { replies <- c.ask(getOf(dead, "/"), time.Hour) }()
			}
			const (
				most  = 64 + 128 // max_conns_per_host, max_pending_per_host
				least = 8 + 128  // dials at a time: while it dials, or for ever
			)
			refused := 0
			for ; refused < n-most; refused++ {
				select {
				case r := <-replies:
					if !r.shed {
						t.Errorf("a request got %+v", r)
					}
				case <-time.After(patience):
					t.Fatalf("%d of %d requests were refused, want at least %d", refused, n, n-most)
				}
			}
			v.served(t)
			for _, c := range conns {
				c.Close()
			}
			for range n - refused {
				switch r := <-replies; {
				case r.shed:
					refused++
				case !errors.Is(r.err, net.ErrClosed):
					t.Errorf("a request that waited got %+v", r)
				}
			}
			t.Logf("%d requests: %d refused, %d waited", n, refused, n-refused)
			if n-refused < least {
				t.Errorf("%d requests waited for the origin, want at least %d", n-refused, least)
			}
			p.recovers(t, start)
		})
	}
}
