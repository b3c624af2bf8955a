package core

import (
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Attempt is an attempt of a request on a way out, which may take several connections:
// where one of a pool turns out to be dead, the next one is of the same attempt. It owns
// what it holds: the turn of a probe, a place on the member, the place of a retry.
//
// Two events settle that, and nothing else does. It *stands* when the head of a response
// is there, or the tunnel: how long the rest takes, and how it ends, is no matter of the
// way. It is *over* when the request goes on to another way, or has ended.
type Attempt struct {
	upstream.Attempt

	begun    bool // it was to get a connection
	answered bool // a head of a response has come over the current one, if only a 1xx
	stood    bool // the current connection has reached the destination
}

// make makes an attempt, or goes on with the one that has another connection, and settles
// what it holds where it is over.
func (t *Request) make(try func() error) (err error) {
	a := &t.Ways.Current
	if !a.Direct() && t.Use != upstream.Tunnel {
		of := a.Health
		of.StartExchange()
		defer of.EndExchange()
	}
	t.beginSpan()
	panicking := true
	defer func() {
		if panicking {
			t.tell(upstream.Verdict{Kind: health.Cancelled}) // a writer does that when its client has gone
			t.endSpan(failure.Canceled)
			return
		}
		err = t.over(err)
		t.endSpan(err)
	}()
	err = try()
	panicking = false
	return err
}

// Connects notes that the current attempt is about to get a connection, and reports
// whether it is the first of the request.
func (t *Request) Connects() (first bool) {
	t.Outcome.Attempts++
	a := &t.Ways.Current
	t.Outcome.Reused, a.begun, a.answered, a.stood = false, true, false, false
	return t.Outcome.Attempts == 1
}

// connected settles what the current attempt holds when it has its connection. Behind a
// tunnel that was opened just now, the destination was reached: how long the answer takes
// is no matter of that.
func (t *Request) connected() {
	if t.Absolute() {
		return
	}
	t.Ways.Current.stood = true
	if !t.Outcome.Reused {
		t.Ways.report.Tell(nil)
	}
}

// Answers notes that a head of a response has come, be it an informational one.
func (t *Request) Answers() { t.Ways.Current.answered = true }

// Stands settles what the current attempt holds when the head of a response is there.
func (t *Request) Stands(status int) {
	t.Retries.End()
	if f := t.Outcome.Failure; f != nil {
		t.Ways.report.Settle(f, f.Unreached()) // it was the upstream that has answered, to say that it failed
	} else {
		t.Ways.report.Tell(nil)
	}
	if !t.Ways.Current.Direct() {
		v := upstream.JudgeRelayed(status, t.Absolute())
		v.Untimed = t.Body != nil // it hangs on how fast the client sends
		t.tell(v)
	}
}

// over settles what the current attempt holds when it has ended, with err if with any. The
// error that it returns says what it is to the member. Where a connection was dead that
// came from the pool, the attempt goes on over another one: it keeps what it holds.
func (t *Request) over(err error) error {
	a := &t.Ways.Current
	switch {
	case a.Direct() || a.Told() || !a.begun:
		return err
	case err == nil:
		t.tell(upstream.Stands)
		return nil
	}
	e := t.ViaError(err)
	if !e.Stale || !t.Outcome.Reused || !t.WouldRetry(e) {
		e.Verdict.Alone, e.Verdict.Err = !t.HasAnotherWay(e), e.Err
		t.tell(e.Verdict)
	}
	return e
}

// tell tells the member of the current attempt how it went, if nothing was told of it.
func (t *Request) tell(v upstream.Verdict) {
	v.Unsafe = t.Use != upstream.Tunnel && t.Absolute() && !retry.Idempotent(t.HTTP.Method)
	t.Ways.Current.Tell(v, t.destinationNumber())
}
