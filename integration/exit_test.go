package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// drained fails the test unless a tunnel ends in order.
func drained(t *testing.T, tun *tunnel, what string) {
	t.Helper()
	if rest, err := io.ReadAll(tun); err != nil || len(rest) > 0 {
		t.Errorf("%s ended with %q, %v; want a clean end", what, rest, err)
	}
}

// stop is what makes a Caddy exit.
type stop struct {
	name string
	do   func(t *testing.T, p *process)
}

var stops = []stop{
	{"SIGTERM", func(t *testing.T, p *process) { p.signal(t, syscall.SIGTERM) }},
	{"SIGINT", func(t *testing.T, p *process) { p.signal(t, syscall.SIGINT) }},
	{"admin", func(t *testing.T, p *process) {
		stopped := make(chan error, 1)
		go func() { stopped <- p.post("/stop", "", nil) }()
		t.Cleanup(func() {
			if err := await(t, stopped, "the answer of /stop"); err != nil {
				t.Errorf("/stop: %v", err)
			}
		})
	}},
}

const exiting = "exiting; tunnels have a while left"

// awaitExiting waits until both servers shut down.
func (p *process) awaitExiting(t *testing.T) {
	t.Helper()
	p.logs.awaitLines(t, exiting, 2, func(l logLine) bool { return l.str("msg") == exiting })
}

// reasons counts the tunnels in the access log by why they ended.
func (p *process) reasons() map[string]int {
	found := map[string]int{}
	for _, l := range p.logs.accessLines(func(l logLine) bool { return l.str("request.method") == http.MethodConnect }) {
		found[l.str("egress.close_reason")]++
	}
	return found
}

// expectReasons fails the test unless the tunnels have ended for this reason.
func (p *process) expectReasons(t *testing.T, reason string, tunnels int) {
	t.Helper()
	if got := p.reasons(); len(got) != 1 || got[reason] != tunnels {
		t.Errorf("tunnels have ended by reason: %v; want %d by %s", got, tunnels, reason)
	}
}

// Whatever makes Caddy exit, with its default grace period, which is eternal:
// exchanges finish; tunnels of all protocols go on for close_delay, and then end in
// order, or with a reset where they are busy, with the reason in the access log; the process waits for them
// and no longer. New requests are told to go elsewhere.
func TestExit(t *testing.T) {
	for _, stop := range stops {
		t.Run(stop.name, func(t *testing.T) {
			var busy sync.WaitGroup
			t.Cleanup(busy.Wait) // when the process is gone, at the latest
			p := reserve(t)
			echo := newEchoOrigin(t)
			release, arrived := newGate(), make(chan struct{}, 16)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.request()
				arrived <- struct{}{}
				oc.hold(release.c)
				oc.ok("finished")
			})
			t.Cleanup(release.open)
			flood := newRawOrigin(t, func(oc *originConn) {
				for {
					if _, err := oc.Conn.Write(motifs); err != nil {
						return
					}
					time.Sleep(50 * time.Millisecond) // a busy client must keep up
				}
			})
			t.Parallel()
			p.start(t, processSetup{egress: "tunnel {\n close_delay 5s\n}\n"})

			clients, idle := map[string]*client{}, map[string]*tunnel{}
			exchanges := map[string]<-chan answer{}
			for _, kind := range clientKinds {
				c := p.client(t, kind)
				clients[kind], idle[kind] = c, c.open(t, echo.addr)
				exchanges[kind] = c.goTry(c.newRequest(t, "GET", origin.url("/"), nil))
				await(t, arrived, "the request of "+kind)
				tun := c.open(t, flood.addr)
				busy.Go(func() { readMotif(t, tun, kind) })
			}
			frames := p.dialFrames(t)
			if got := frames.answer(frames.headers(false, ":method", "CONNECT", ":authority", echo.addr)); got != "200" {
				t.Fatalf("CONNECT frame by frame: %s", got)
			}

			stop.do(t, p)
			p.awaitExiting(t)
			for kind, tun := range idle {
				alive(t, tun, "tunnel of "+kind)
			}
			release.open()
			for kind, a := range exchanges {
				resp := await(t, a, "the response of "+kind).must(t)
				resp.expect(t, 200, "finished")
				if strings.HasPrefix(kind, "h1") && !resp.Close {
					t.Errorf("%s: no Connection: close in %v", kind, resp.Header)
				}
			}
			for _, kind := range []string{"h2", "h3"} {
				if status, err := clients[kind].tryConnect(echo.addr); err == nil {
					t.Errorf("%s: a new CONNECT was answered %d", kind, status)
				}
			}
			for kind, tun := range idle {
				drained(t, tun, "tunnel of "+kind)
				tun.Close()
			}
			frames.expectOrderlyEnd(1)
			busy.Wait()
			if code := p.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			p.expectReasons(t, "drain", 2*len(clientKinds)+1)
		})
	}
}

// motif is what fills a busy tunnel, over and over: of a length that no buffer is a
// multiple of.
var motif = []byte(bulk()[:1009])

// motifs are many of them.
var motifs = bytes.Repeat(motif, 64)

// readMotif reads a busy tunnel to its end: whatever it got is without a gap, and the
// end is a reset, as it was not all.
func readMotif(t *testing.T, tun *tunnel, kind string) {
	defer tun.Close()
	buf, read := make([]byte, 64<<10), 0
	for {
		n, err := tun.Read(buf)
		for i, b := range buf[:n] {
			if b != motif[(read+i)%len(motif)] {
				t.Errorf("busy tunnel of %s: byte %d is wrong", kind, read+i)
				return
			}
		}
		read += n
		if err != nil {
			if !isReset(err) || read == 0 {
				t.Errorf("busy tunnel of %s: %v after %d bytes; want a reset", kind, err, read)
			}
			return
		}
	}
}

// expectOrderlyEnd reads frames until the connection is closed: GOAWAY, and then the
// end of the stream.
func (f *framed) expectOrderlyEnd(stream uint32) {
	f.t.Helper()
	var seen []string
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			seen = append(seen, fmt.Sprintf("GOAWAY %v after %d", frame.ErrCode, frame.LastStreamID))
		case *http2.DataFrame:
			if frame.StreamID == stream && frame.StreamEnded() {
				seen = append(seen, "END_STREAM")
			}
		case *http2.RSTStreamFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				seen = append(seen, "RST_STREAM "+frame.ErrCode.String())
			}
		}
	}
	if want := []string{fmt.Sprintf("GOAWAY NO_ERROR after %d", stream), "END_STREAM"}; fmt.Sprint(seen) != fmt.Sprint(want) {
		f.t.Errorf("frames %v, want %v", seen, want)
	}
}

// openIdle opens a tunnel with a client of each kind, or of each of these.
func (p *process) openIdle(t *testing.T, dest string, kinds ...string) map[string]*tunnel {
	t.Helper()
	if kinds == nil {
		kinds = clientKinds
	}
	tunnels := map[string]*tunnel{}
	for _, kind := range kinds {
		tunnels[kind] = p.client(t, kind).open(t, dest)
		alive(t, tunnels[kind], kind)
	}
	return tunnels
}

// A second SIGINT ends the process at once, whatever the delay.
func TestExit_SecondSIGINT(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: "tunnel {\n close_delay 1h\n}\n"})
	tunnels := p.openIdle(t, echo.addr)
	p.signal(t, syscall.SIGINT)
	p.awaitExiting(t)
	for kind, tun := range tunnels {
		alive(t, tun, kind)
	}
	if !p.runs() {
		t.Error("one SIGINT has ended the process")
	}
	p.signal(t, syscall.SIGINT)
	if code := p.exit(t); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
}

// The process exits as soon as the last tunnel has ended by itself.
func TestExit_WithTheLastTunnel(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: "tunnel {\n close_delay 1h\n}\n"})
	tunnels := p.openIdle(t, echo.addr)
	p.signal(t, syscall.SIGTERM)
	p.awaitExiting(t)
	for kind, tun := range tunnels {
		alive(t, tun, kind)
		if err := tun.CloseWrite(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		drained(t, tun, kind)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "client", len(clientKinds))
}

// A process without tunnels waits for nothing, and one that is told to leave them
// no time ends them at once: with a reset, as they were in use just now.
func TestExit_AtOnce(t *testing.T) {
	for _, tc := range []struct {
		name, delay string
		tunnels     bool
	}{{"no tunnels", "1h", false}, {"no delay", "0", true}} {
		t.Run(tc.name, func(t *testing.T) {
			p, echo := reserve(t), newEchoOrigin(t)
			t.Parallel()
			p.start(t, processSetup{egress: "tunnel {\n close_delay " + tc.delay + "\n}\n"})
			var tunnels map[string]*tunnel
			if tc.tunnels {
				tunnels = p.openIdle(t, echo.addr)
			}
			p.signal(t, syscall.SIGTERM)
			for kind, tun := range tunnels {
				if rest, err := io.ReadAll(tun); len(rest) > 0 || !isReset(err) {
					t.Errorf("%s ended with %q, %v; want a reset", kind, rest, err)
				}
				tun.Close()
			}
			if code := p.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if tc.tunnels {
				p.expectReasons(t, "drain", len(clientKinds))
			}
		})
	}
}

// A grace period that is shorter than close_delay is the limit, and tunnels end in
// order within it.
func TestExit_GracePeriod(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{global: "grace_period 5s", egress: "tunnel {\n close_delay 1h\n}\n"})
	tunnels := p.openIdle(t, echo.addr)
	p.signal(t, syscall.SIGTERM)
	p.awaitExiting(t)
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(clientKinds))
	if p.logs.accessLines(func(l logLine) bool { return l.str("level") == "error" }) != nil {
		t.Error("errors in the access log")
	}
}

// Servers of configurations from before a reload have their tunnels and exchanges still
// when the process exits: tunnels get the same orderly end, whichever configuration they
// began under, and exchanges finish.
func TestExit_AfterReloads(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	release, arrived := newGate(), make(chan struct{}, 16)
	t.Cleanup(release.open)
	origin := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		arrived <- struct{}{}
		oc.hold(release.c)
		oc.ok("finished")
	})
	t.Parallel()
	setup := func(name string) processSetup {
		return processSetup{egress: "server_name " + name + "\ntunnel {\n close_delay 5s\n}\n"}
	}
	p.start(t, setup("first"))
	tunnels, exchanges := map[string]*tunnel{}, map[string]<-chan answer{}
	framed := map[string]*framed{}
	for _, name := range []string{"second", "third"} {
		for kind, tun := range p.openIdle(t, echo.addr) {
			tunnels[kind+", until the "+name] = tun
		}
		for _, kind := range clientKinds {
			c := p.client(t, kind)
			exchanges[kind+", until the "+name] = c.goTry(c.newRequest(t, "GET", origin.url("/"), nil))
			await(t, arrived, "the request of "+kind)
		}
		f := p.dialFrames(t)
		if got := f.answer(f.headers(false, ":method", "CONNECT", ":authority", echo.addr)); got != "200" {
			t.Fatalf("CONNECT frame by frame: %s", got)
		}
		framed[name] = f
		p.load(t, setup(name))
	}
	p.signal(t, syscall.SIGTERM)
	p.awaitExiting(t)
	for kind, tun := range tunnels {
		alive(t, tun, kind)
	}
	release.open()
	for kind, a := range exchanges {
		await(t, a, "the response of "+kind).must(t).expect(t, 200, "finished")
	}
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	for _, f := range framed {
		f.expectOrderlyEnd(1)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(tunnels)+len(framed))
}

// With a grace period, Caddy no longer waits for servers of before when it is over. At
// exit their tunnels still end in order: the process waits for them itself.
func TestExit_AfterReloadAndGrace(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	setup := func(name string) processSetup {
		return processSetup{global: "grace_period 4s", egress: "server_name " + name + "\ntunnel {\n close_delay 1h\n}\n"}
	}
	p.start(t, setup("first"))
	tunnels := p.openIdle(t, echo.addr, "h1", "h1tls", "h2") // Caddy closes those over HTTP/3
	f := p.dialFrames(t)
	if got := f.answer(f.headers(false, ":method", "CONNECT", ":authority", echo.addr)); got != "200" {
		t.Fatalf("CONNECT frame by frame: %s", got)
	}
	p.load(t, setup("second"))
	p.awaitLog(t, "server shutdown") // in vain: an error
	for kind, tun := range tunnels {
		alive(t, tun, kind)
	}
	p.signal(t, syscall.SIGTERM)
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	f.expectOrderlyEnd(1)
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(tunnels)+1)
}
