package relay

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// endings are the ways in which a tunnel is ended from here, after a minute.
var endings = []struct {
	name string
	cfg  Config
	end  func(*Relay)
}{
	{"lifetime", Config{Lifetime: time.Minute}, nil},
	{"policy", Config{}, func(r *Relay) { r.End(ReasonPolicy) }},
	{"admin", Config{}, func(r *Relay) { r.End(ReasonAdmin) }},
	{"drain", Config{}, func(r *Relay) { r.Drain(ReasonDrain, 0, time.Second) }},
}

// eachEnding runs a test in a bubble with a tunnel that ends after a minute.
func eachEnding(t *testing.T, f func(t *testing.T, client, origin Stream)) {
	for _, e := range endings {
		t.Run(e.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, origin := fakeLink(t), fakeLink(t)
				e.cfg.IdleTimeout = time.Hour
				r := New(client.near, origin.near, e.cfg)
				results := make(chan Result, 1)
				r.Start(func(res Result) { results <- res })
				if e.end != nil {
					time.AfterFunc(time.Minute, func() { e.end(r) })
				}
				f(t, client.far, origin.far)
				<-results
			})
		})
	}
}

// A tunnel that is ended in use has cut something off: neither side may take what it
// has got for all there is.
func TestCutInUse(t *testing.T) {
	eachEnding(t, func(t *testing.T, client, origin Stream) {
		for range 59 {
			time.Sleep(time.Second)
			mustWrite(t, origin, "x")
			mustRead(t, client, "x")
		}
		mustBreak(t, client, "")
		mustBreak(t, origin, "")
	})
}

// A side that has ended and waits for the rest of the other one sees that it will not
// come, however long the tunnel was quiet; the other one has got all there was.
func TestCutHalfClosed(t *testing.T) {
	eachEnding(t, func(t *testing.T, client, origin Stream) {
		mustWrite(t, client, "question")
		_ = client.CloseWrite()
		mustRead(t, origin, "question")
		mustEnd(t, origin)
		mustBreak(t, client, "")
	})
}

// Where nothing has moved for a while and nothing waits, nothing is cut.
func TestEndAtRest(t *testing.T) {
	eachEnding(t, func(t *testing.T, client, origin Stream) {
		mustWrite(t, client, "question")
		mustRead(t, origin, "question")
		mustEnd(t, client)
		mustEnd(t, origin)
	})
}

// Bytes that were taken from one side and wait for the other one are lost when the
// tunnel ends as idle: neither side may believe that they have arrived.
func TestCutWhileAWriteIsStuck(t *testing.T) {
	for _, cfg := range []Config{{IdleTimeout: time.Minute}, {Lifetime: time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			client, origin := fakeLink(t), fakeLink(t)
			r := New(client.near, origin.near, cfg)
			results := make(chan Result, 1)
			r.Start(func(res Result) { results <- res })
			sent := make(chan error, 1)
			go func() {
				_, err := client.far.Write(make([]byte, 1<<20))
				sent <- err
			}()
			<-results
			if err := <-sent; err == nil {
				t.Error("all was taken: the test is too small")
			}
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{origin.far}); err == nil {
				t.Error("the origin has seen an orderly end")
			}
			mustBreak(t, client.far, "")
		})
	}
}

// The same over sockets, where closing a socket would have sent what the kernel still
// holds, and then an end.
func TestCutOverSockets(t *testing.T) {
	eachKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = pattern(origin.far)
		}()
		awaitStuck(t, r)
		r.End(ReasonIdle)
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{client.far}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the client has seen %v; want a reset", err)
		}
		<-stopped
		if res := wait(); res.Reason != ReasonIdle {
			t.Errorf("result %+v; want idle", res)
		}
	})
}
