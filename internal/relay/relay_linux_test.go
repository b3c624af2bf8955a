package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSpliced(t *testing.T) {
	for _, k := range kinds {
		r := New(k.client(t).near, k.origin(t).near, Config{})
		if got, want := r.Spliced(), k.name == "tcp_tcp"; got != want {
			t.Errorf("%s: spliced %v; want %v", k.name, got, want)
		}
		r.End(0)
	}
}

// Bulk goes through the kernel, and what does is counted like the rest.
func TestBulkIsSpliced(t *testing.T) {
	const size = 64 << 20
	r := transfer(t, tcpLink(t), tcpLink(t), size, size+1)
	for name, p := range map[string]*pump{"up": &r.up, "down": &r.down} {
		if got := p.spliced.Load(); got < size/2 {
			t.Errorf("%s: %d of %d bytes spliced", name, got, size)
		}
		if p.lent.Load() != 0 {
			t.Errorf("%s: a buffer or pipe was not given back", name)
		}
	}
}

// Small messages are copied: a pipe would cost more than it saves.
func TestSmallMessagesAreNotSpliced(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{})
	start(t, r)
	for range 100 {
		mustWrite(t, client.far, "ping")
		mustRead(t, origin.far, "ping")
	}
	if n := r.up.spliced.Load(); n != 0 {
		t.Errorf("%d bytes spliced", n)
	}
}

// After a burst that was spliced, messages are copied again.
func TestBackToCopying(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{})
	start(t, r)
	go func() { _, _ = send(client.far, 1, 16<<20, false) }()
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{origin.far}, 16<<20); err != nil {
		t.Fatal(err)
	}
	if r.up.spliced.Load() == 0 {
		t.Fatal("the burst was not spliced")
	}
	ping := func() {
		mustWrite(t, client.far, "ping")
		mustRead(t, origin.far, "ping")
	}
	for range smallSplices {
		ping()
	}
	eventually(t, "all is counted", func() bool {
		up, _ := r.Counts()
		return up == 16<<20+4*smallSplices
	})
	settled := r.up.spliced.Load()
	for range 20 {
		ping()
	}
	if n := r.up.spliced.Load(); n != settled {
		t.Errorf("%d bytes spliced after the burst", n-settled)
	}
}

// The mode may change while the socket has more to read.
func TestBackToCopyingWithoutAPause(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	message := strings.Repeat("0123456789", 100)
	mustWrite(t, client.far, message)
	r := New(client.near, origin.near, Config{})
	p := pipes.get()
	p.size = 4 // splices of four bytes
	r.up.tcp.splicing, r.up.tcp.pipe = true, p
	r.up.lent.Add(1)
	start(t, r)
	mustRead(t, origin.far, message)
	if n := r.up.spliced.Load(); n != 4*smallSplices {
		t.Errorf("%d bytes spliced; want %d", n, 4*smallSplices)
	}
	eventually(t, "parked", func() bool { return r.up.lent.Load() == 0 })
	trimPipes() // not for anybody else
}

// A kernel that refuses to splice costs nothing but speed.
func TestSpliceRefused(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{})
	r.up.tcp.splicing = true
	r.up.tcp.pipe = &pipe{r: -1, w: refusing(t), size: pipeSize}
	r.up.lent.Add(1)
	pipes.mu.Lock()
	pipes.open++
	pipes.mu.Unlock()
	wait := start(t, r)
	origin.far.CloseWrite()
	oneWay(t, client.far, origin.far, 8<<20)
	if res := wait(); res.BytesUp != 8<<20 || res.Err != nil {
		t.Errorf("result %+v", res)
	}
	if r.up.spliced.Load() != 0 || !r.up.tcp.noSplice {
		t.Error("the direction did not give up splicing")
	}
	if n := r.up.lent.Load(); n != 0 {
		t.Errorf("%d buffers and pipes were not given back", n)
	}
}

// refusing returns a descriptor that splice answers with EINVAL.
func refusing(t *testing.T) int {
	t.Helper()
	f, err := os.OpenFile(t.TempDir()+"/f", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd())) // the pool closes its own copy
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}

func TestWithoutPipes(t *testing.T) {
	pipes.trim()
	pipes.trim()
	pipes.mu.Lock()
	was := pipes.open
	pipes.open = maxPipes
	pipes.mu.Unlock()
	defer func() {
		pipes.mu.Lock()
		pipes.open -= maxPipes - was
		pipes.mu.Unlock()
	}()
	r := transfer(t, tcpLink(t), tcpLink(t), 16<<20, 16<<20)
	if n := r.up.spliced.Load() + r.down.spliced.Load(); n != 0 {
		t.Errorf("%d bytes spliced without a pipe", n)
	}
}

// Neither while waiting for the first byte nor after a burst does a tunnel
// hold anything but its two sockets.
func TestIdleTunnelsHoldNothing(t *testing.T) {
	trimPipes()
	const tunnels = 20
	var clients, origins [tunnels]link
	for i := range tunnels {
		clients[i], origins[i] = tcpLink(t), tcpLink(t)
	}
	before := openFiles(t)
	var relays [tunnels]*Relay
	for i := range tunnels {
		relays[i] = New(clients[i].near, origins[i].near, Config{IdleTimeout: time.Hour})
		start(t, relays[i])
	}
	idle := func() bool {
		for _, r := range relays {
			if r.up.lent.Load() != 0 || r.down.lent.Load() != 0 {
				return false
			}
		}
		return true
	}
	eventually(t, "parked at first", idle)
	if n := openFiles(t); n != before {
		t.Errorf("%d descriptors before the relays, %d with them", before, n)
	}

	const burst = 4<<20 + 1
	for _, way := range []struct {
		name     string
		from, to *[tunnels]link
		pump     func(*Relay) *pump
	}{
		{"down", &origins, &clients, func(r *Relay) *pump { return &r.down }},
		{"up", &clients, &origins, func(r *Relay) *pump { return &r.up }},
		{"down again", &origins, &clients, func(r *Relay) *pump { return &r.down }},
	} {
		done := make(chan error, 2*tunnels)
		for i := range tunnels {
			go func() { _, err := send(way.from[i].far, 1, burst, false); done <- err }()
			go func() {
				_, err := io.CopyN(io.Discard, struct{ io.Reader }{way.to[i].far}, burst)
				done <- err
			}()
		}
		for range 2 * tunnels {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		var spliced int64
		for _, r := range relays {
			spliced += way.pump(r).spliced.Load()
		}
		if spliced == 0 {
			t.Errorf("%s: the burst was not spliced", way.name)
		}
		eventually(t, "parked after the burst "+way.name, idle)
		trimPipes()
		if n := openFiles(t); n != before {
			t.Errorf("%s: %d descriptors before the burst, %d after it", way.name, before, n)
		}
	}
}

// The same for a socket whose other side is no socket: it is waited for without
// a buffer.
func TestIdleSocketBesideAnotherStream(t *testing.T) {
	client, origin := tcpLink(t), tlsLink(t)
	r := New(client.near, origin.near, Config{})
	start(t, r)
	if r.up.tcp == nil || r.down.tcp != nil {
		t.Fatal("the socket, and only it, should be waited for")
	}
	eventually(t, "parked at first", func() bool { return r.up.lent.Load() == 0 })
	go func() { _, _ = send(client.far, 1, 1<<20, false) }()
	if _, err := io.CopyN(io.Discard, origin.far, 1<<20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "parked after a burst", func() bool { return r.up.lent.Load() == 0 })
	if r.up.spliced.Load() != 0 {
		t.Error("bytes were spliced past TLS")
	}
}

// trimPipes does at once what time would do.
func trimPipes() {
	pipes.trim()
	pipes.trim()
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Closing a tunnel in the middle of a spliced burst leaks no pipe and gives
// none back that holds bytes.
func TestCloseInABurst(t *testing.T) {
	for range 20 {
		client, origin := tcpLink(t), tcpLink(t)
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		go func() { _, _ = send(origin.far, 1, 1<<30, false) }()
		eventually(t, "splicing", func() bool { return r.down.spliced.Load() > 0 || stalled(r) })
		r.End(ReasonDrain)
		res := wait()
		client.far.(*net.TCPConn).SetDeadline(time.Now().Add(10 * time.Second))
		got, err := io.Copy(io.Discard, struct{ io.Reader }{client.far})
		if !errors.Is(err, syscall.ECONNRESET) || got > res.BytesDown {
			t.Errorf("%d bytes counted, %d arrived, %v; want a reset", res.BytesDown, got, err)
		}
	}
	pipes.mu.Lock()
	free := append([]*pipe(nil), pipes.free...)
	open := pipes.open
	pipes.mu.Unlock()
	if open != len(free) {
		t.Errorf("%d pipes open, %d of them free", open, len(free))
	}
	for _, p := range free {
		if n, err := unix.IoctlGetInt(p.r, unix.TIOCINQ); n != 0 || err != nil {
			t.Errorf("a free pipe holds %d bytes, %v", n, err)
		}
	}
}

// stalled fills the socket buffers of a client that does not read: with small
// ones nothing is ever spliced.
func stalled(r *Relay) bool {
	_, down := r.Counts()
	return down > 1<<20
}

// A rate does not keep the kernel from moving the bytes, nor does waiting for
// one's turn leave anything behind when the tunnel ends.
func TestSpliceAtARate(t *testing.T) {
	const bps = 64 << 20
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{DownRates: []*Rate{NewRate(bps)}})
	wait := start(t, r)
	m := newMeter(bps)
	go func() { _, _ = send(origin.far, 1, 1<<30, false) }()
	if err := m.read(t, client.far, bps/2); err != nil {
		t.Fatal(err)
	}
	if r.down.spliced.Load() == 0 {
		t.Error("nothing was spliced")
	}
	r.End(ReasonDrain)
	wait()
	if n := r.down.lent.Load(); n != 0 {
		t.Errorf("%d buffers and pipes were not given back", n)
	}
}
