package retry

import (
	"net/http"
	"sync/atomic"
)

// MaxDirect bounds the retries of a request that leaves directly, whatever the
// budget allows. Through a group, it is the group's lb_retries.
const MaxDirect = 2

// Attempt is what the retry rules look at: an attempt that has ended without
// a response that the client could be given.
type Attempt struct {
	ClientGone bool // nobody waits for an answer any more
	Retries    int  // retries of the same path that came before
	Stale      bool // the connection ended, or failed, before any byte of a response
	Reused     bool // it had carried an exchange before, or had been idle
	Written    bool // some of the request may have reached the origin
	Idempotent bool // the method is safe to repeat
	Replayable bool // there is no body, or all that was read of it is at hand

	Upstream  bool // it went through an upstream proxy
	Elsewhere bool // the upstream has failed or refused; another one may do better
	Exhausted bool // as many upstreams were tried as may be, or for as long
	Resent    bool // a request that may have been acted on was sent to another upstream already
}

// SamePath reports whether it is the same path that is tried again, on a fresh
// connection: one of the pool that was just closed says nothing about where it led.
func (a *Attempt) SamePath() bool { return a.Stale && a.Reused }

// rules are the retry table of upstream connections, in the order in which
// they are asked: the first that applies decides. What none applies to is not
// retried.
//
// That a direct dial has failed is no case of its own: the dialer has tried other
// addresses of the destination by then, and there is no other way to it.
var rules = []struct {
	name    string
	applies func(*Attempt) bool
	retry   bool
}{
	{"the client has left", func(a *Attempt) bool { return a.ClientGone }, false},
	{"the origin has begun to answer, or took too long, or was never reached", func(a *Attempt) bool { return !a.Stale && !a.Elsewhere }, false},
	{"what is wrong with a fresh connection is not the pool's doing", func(a *Attempt) bool { return !a.Upstream && !a.Reused }, false},
	{"a direct path is tried again once", func(a *Attempt) bool { return !a.Upstream && a.Retries > 0 }, false},
	{"enough upstreams were tried", func(a *Attempt) bool { return a.Exhausted && !a.SamePath() }, false},
	{"the body is gone", func(a *Attempt) bool { return !a.Replayable }, false},
	{"nothing was written", func(a *Attempt) bool { return !a.Written }, true},
	{"the origin may have acted on it", func(a *Attempt) bool { return !a.Idempotent }, false},
	{"it went to another upstream once already", func(a *Attempt) bool { return a.Resent && !a.SamePath() }, false},
	{"an idempotent request met a connection that had just been closed, or an upstream that failed", func(*Attempt) bool { return true }, true},
}

// Retryable asks the rules.
func (a *Attempt) Retryable() bool {
	for i := range rules {
		if r := &rules[i]; r.applies(a) {
			return r.retry
		}
	}
	return false
}

// StaleError is a connection that ended, or failed, before any byte of a response
// came.
type StaleError struct {
	Written bool // some of the request may have reached the origin
	Err     error
}

func (e *StaleError) Error() string { return e.Err.Error() }

func (e *StaleError) Unwrap() error { return e.Err }

// Idempotent reports whether a method is idempotent (RFC 9110 §9.2.2). An
// Idempotency-Key makes no difference: it is the client who may repeat then.
func Idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// The budget: retries at once that are always allowed, and the share of the
// requests in flight from which on there may be more.
const (
	budgetMin   = 3
	BudgetShare = 0.2
)

// Budget keeps retries from multiplying the load on destinations that are
// failing already. It counts the requests in flight and, among them, those whose
// current attempt is a retry that was not answered yet.
//
// The first retry of a request is always let through: one connection that has
// just been closed, or one upstream that has just died, must not be the client's
// problem. It counts all the same, and so leaves less room for second ones. A hedge
// is no answer to a failure, and never free.
type Budget struct {
	share    float64 // of the requests in flight
	most     int     // retries of one request
	requests atomic.Int64
	retries  atomic.Int64
}

// NewBudget returns a budget for a share of the requests in flight, with so many retries
// of one request at most.
func NewBudget(share float64, most int) *Budget {
	return &Budget{share: share, most: most}
}

// limit is how many retries may be in flight.
func (b *Budget) limit() int64 {
	return max(budgetMin, int64(float64(b.requests.Load())*b.share))
}

// InFlight is how many requests are counted, and how many of them are retries that
// were not answered yet.
func (b *Budget) InFlight() (requests, retries int64) { return b.requests.Load(), b.retries.Load() }

// Used is the part of the budget that is taken: with 1, further retries are refused but the
// first of a request.
func (b *Budget) Used() float64 { return float64(b.retries.Load()) / float64(b.limit()) }

// Begin and End frame a request.
func (b *Budget) Begin() { b.requests.Add(1) }

func (b *Budget) End() { b.requests.Add(-1) }

// take asks for the retry of a request that has made so many before. What was
// taken is given back by giveBack when the attempt has ended.
func (b *Budget) take(before int) bool {
	if before > 0 {
		return b.takeSpare(before)
	}
	if b.most == 0 {
		return false
	}
	b.retries.Add(1)
	return true
}

// takeSpare is take within the limit also for the first one.
func (b *Budget) takeSpare(before int) bool {
	if before >= b.most {
		return false
	}
	for {
		n := b.retries.Load()
		if n >= b.limit() {
			return false
		}
		if b.retries.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *Budget) giveBack() { b.retries.Add(-1) }

// Retries are those of one request.
type Retries struct {
	Made  int32   // over other paths
	Again int32   // over the same one, on a fresh connection
	held  *Budget // that the current attempt, a retry, has its place from
	hedge *Budget // that the attempt beside it has its place from
}

// Next asks the budget for one more retry, beside those that were counted. The
// attempt before has ended.
func (r *Retries) Next(b *Budget, counted *int32) bool {
	r.End()
	if !b.take(int(*counted)) {
		return false
	}
	*counted++
	r.held = b
	return true
}

// Beside asks the budget for an attempt beside the current one.
func (r *Retries) Beside(b *Budget) bool {
	if r.hedge != nil || !b.takeSpare(int(r.Made)) {
		return false
	}
	r.Made++
	r.hedge = b
	return true
}

// NotBeside gives the place of the attempt beside the current one back.
func (r *Retries) NotBeside() {
	if r.hedge != nil {
		r.hedge.giveBack()
		r.hedge = nil
	}
}

// End gives the places of the last attempt, and of the one beside it, back.
func (r *Retries) End() {
	r.NotBeside()
	if r.held != nil {
		r.held.giveBack()
		r.held = nil
	}
}

// MaxReplay is the largest body that is kept to be sent again (RFC 9110 §9.2.2
// allows it for idempotent methods).
const MaxReplay = 64 << 10
