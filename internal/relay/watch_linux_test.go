package relay

import (
	"errors"
	"syscall"
	"testing"
	"time"
)

// A client that resets its connection ends the tunnel, though nobody reads from it: its
// upload is blocked, or waits for its rate, or has ended before.
func TestClientResetIsSeen(t *testing.T) {
	upload := func(t *testing.T, r *Relay, client Stream) {
		go func() { _, _ = send(client, 1, 1<<30, false) }()
		last := int64(-1)
		eventually(t, "the upload gets stuck", func() bool {
			time.Sleep(20 * time.Millisecond)
			up, _ := r.Counts()
			was := last
			last = up
			return up > 0 && up == was
		})
	}
	for name, tc := range map[string]struct {
		rates func() []*Rate
		until func(t *testing.T, r *Relay, client, origin Stream)
	}{
		"blocked": {func() []*Rate { return nil }, func(t *testing.T, r *Relay, client, _ Stream) { upload(t, r, client) }},
		"paced":   {func() []*Rate { return []*Rate{NewRate(1)} }, func(t *testing.T, r *Relay, client, _ Stream) { upload(t, r, client) }},
		"half-closed": {func() []*Rate { return nil }, func(t *testing.T, _ *Relay, client, origin Stream) {
			client.CloseWrite()
			mustEnd(t, origin)
		}},
	} {
		for _, k := range kinds {
			if watched(k.client(t).near) == nil {
				continue
			}
			t.Run(name+"_"+k.name, func(t *testing.T) {
				t.Parallel()
				client, origin := k.client(t), k.origin(t)
				r := New(client.near, origin.near, Config{UpRates: tc.rates()})
				wait := start(t, r)
				tc.until(t, r, client.far, origin.far)
				abort(t, client.far)
				if res := wait(); res.Reason != ReasonClientError || !errors.Is(res.Err, syscall.ECONNRESET) {
					t.Errorf("result %+v; want client_error, ECONNRESET", res)
				}
				if _, _, err := receive(origin.far); err == nil && name != "half-closed" { // where it had seen one before
					t.Error("the origin saw an end; want a reset")
				}
			})
		}
	}
}

// A reset whose error went to a write of the other direction is seen as well.
func TestClientResetBehindAFailedWrite(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{UpRates: []*Rate{NewRate(1)}})
	wait := start(t, r)
	go func() { _, _ = send(client.far, 1, 1<<20, false) }()
	eventually(t, "the upload waits", func() bool { return r.up.holds() })
	abort(t, client.far)
	mustWrite(t, origin.far, "x")
	if _, _, err := receive(origin.far); err == nil {
		t.Error("the origin saw an end; want a reset")
	}
	if res := wait(); res.Reason != ReasonClientError {
		t.Errorf("result %+v; want client_error", res)
	}
}

// A client that has sent all, got all and gone in order is waited for no more, but its
// last bytes still go to a slow origin.
func TestClientGoneInOrderIsNotCut(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{UpRates: []*Rate{NewRate(1)}})
	wait := start(t, r)
	if _, err := send(client.far, 1, 5000, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the upload waits", r.up.pacing.Load)
	origin.far.CloseWrite()
	mustEnd(t, client.far)
	client.far.Close()
	eventually(t, "the client's connection is closed", func() bool {
		_, closed := broken(r.socket)
		return closed
	})
	if unread, reset := r.clientReset(); !unread || reset {
		t.Errorf("unread %v, reset %v; want the first alone", unread, reset)
	}
	r.End(ReasonClosed)
	wait()
}

// Where nothing waits any more, the client is not looked at.
func TestClientIsNotWatchedForNothing(t *testing.T) {
	client, origin := tlsLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{})
	start(t, r)
	for range 3 {
		mustWrite(t, client.far, "x")
		mustRead(t, origin.far, "x")
		eventually(t, "the watch ends", func() bool { return !r.watched.Load() })
	}
}

// A socket shows that its peer reads before it takes more, also below TLS.
func TestSocketShowsSlowReader(t *testing.T) {
	for name, kind := range map[string]func(testing.TB) link{"tcp": tcpLink, "tls": tlsLink} {
		t.Run(name, func(t *testing.T) {
			client, origin := kind(t), tcpLink(t)
			r := New(client.near, origin.near, Config{})
			wait := start(t, r)
			go func() { _, _ = send(origin.far, 1, 1<<30, false) }()
			awaitStuck(t, r)
			var last look
			eventually(t, "nothing moves", func() bool { return !r.down.goesOn(&last) })
			read := make(chan struct{})
			go func() {
				defer close(read)
				_, _, _ = receive(client.far)
			}()
			eventually(t, "the client's reads are seen", func() bool { return r.down.goesOn(&last) })
			r.End(ReasonClosed)
			<-read
			wait()
		})
	}
}
