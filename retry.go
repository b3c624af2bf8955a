package egress

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// maxRetries bounds the retries of a request that leaves directly, whatever the
// budget allows. Through a group, it is the group's lb_retries.
const maxRetries = 2

// lostAttempt is what the retry rules look at: an attempt that has ended without
// a response that the client could be given.
type lostAttempt struct {
	clientGone bool // nobody waits for an answer any more
	retries    int  // retries of the same path that came before
	stale      bool // the connection ended, or failed, before any byte of a response
	reused     bool // it had carried an exchange before, or had been idle
	written    bool // some of the request may have reached the origin
	idempotent bool // the method is safe to repeat
	replayable bool // there is no body, or all that was read of it is at hand

	upstream  bool // it went through an upstream proxy
	elsewhere bool // the upstream has failed or refused; another one may do better
	exhausted bool // as many upstreams were tried as may be, or for as long
	resent    bool // a request that may have been acted on was sent to another upstream already
}

// samePath reports whether it is the same path that is tried again, on a fresh
// connection: one of the pool that was just closed says nothing about where it led.
func (a *lostAttempt) samePath() bool { return a.stale && a.reused }

// retryRules are the retry table of upstream connections, in the order in which
// they are asked: the first that applies decides. What none applies to is not
// retried.
//
// That a direct dial has failed is no case of its own: the dialer has tried other
// addresses of the destination by then, and there is no other way to it.
var retryRules = []struct {
	name    string
	applies func(*lostAttempt) bool
	retry   bool
}{
	{"the client has left", func(a *lostAttempt) bool { return a.clientGone }, false},
	{"the origin has begun to answer, or took too long, or was never reached", func(a *lostAttempt) bool { return !a.stale && !a.elsewhere }, false},
	{"what is wrong with a fresh connection is not the pool's doing", func(a *lostAttempt) bool { return !a.upstream && !a.reused }, false},
	{"a direct path is tried again once", func(a *lostAttempt) bool { return !a.upstream && a.retries > 0 }, false},
	{"enough upstreams were tried", func(a *lostAttempt) bool { return a.exhausted && !a.samePath() }, false},
	{"the body is gone", func(a *lostAttempt) bool { return !a.replayable }, false},
	{"nothing was written", func(a *lostAttempt) bool { return !a.written }, true},
	{"the origin may have acted on it", func(a *lostAttempt) bool { return !a.idempotent }, false},
	{"it went to another upstream once already", func(a *lostAttempt) bool { return a.resent && !a.samePath() }, false},
	{"an idempotent request met a connection that had just been closed, or an upstream that failed", func(*lostAttempt) bool { return true }, true},
}

// retryable asks the rules.
func (a *lostAttempt) retryable() bool {
	for i := range retryRules {
		if r := &retryRules[i]; r.applies(a) {
			return r.retry
		}
	}
	return false
}

// lost describes the attempt that has ended with err; ok is false where nothing can
// be done about it, which is the usual failure.
func (t *transaction) lost(err error) (a lostAttempt, ok bool) {
	a = lostAttempt{
		clientGone: t.clientGone(),
		retries:    t.retries.again,
		reused:     t.out.reused,
		idempotent: t.kind == isTunnel || safeToRepeat(t.r.Method),
		replayable: t.upload == nil || t.upload.replayable(),
		resent:     t.resent,
	}
	if e, via := errors.AsType[*upstreamError](err); via {
		a.upstream = true
		a.stale, a.written = e.stale, e.sent
		a.elsewhere = !e.final && e.elsewhere()
		a.exhausted = t.exhausted()
		return a, a.stale || a.elsewhere
	}
	stale, ok := errors.AsType[*staleError](err)
	if ok {
		a.stale, a.written = true, stale.written
	}
	return a, ok
}

// wouldRetry reports whether the rules allow the request, whose attempt is about
// to fail with err, to be sent again.
func (t *transaction) wouldRetry(err error) bool {
	a, ok := t.lost(err)
	return ok && a.retryable()
}

// mayRetry reports whether the request, whose last attempt has failed with err,
// is sent again; if so, its body has been prepared for that.
func (t *transaction) mayRetry(err error) bool {
	a, ok := t.lost(err)
	if !ok || !a.retryable() || !t.takeRetry(a.samePath()) {
		return false
	}
	t.resent = t.resent || a.written && !a.samePath()
	t.again = a.upstream && a.samePath()
	if t.upload != nil {
		t.upload.rewind()
	}
	return true
}

// staleError is a connection that ended, or failed, before any byte of a response
// came.
type staleError struct {
	written bool // some of the request may have reached the origin
	err     error
}

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// safeToRepeat reports whether a method is idempotent (RFC 9110 §9.2.2). An
// Idempotency-Key makes no difference: it is the client who may repeat then.
func safeToRepeat(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// The budget: retries at once that are always allowed, and the share of the
// requests in flight from which on there may be more.
const (
	retryBudgetMin   = 3
	retryBudgetShare = 0.2
)

// retryBudget keeps retries from multiplying the load on destinations that are
// failing already. It counts the requests in flight and, among them, those whose
// current attempt is a retry that was not answered yet.
//
// The first retry of a request is always let through: one connection that has
// just been closed, or one upstream that has just died, must not be the client's
// problem. It counts all the same, and so leaves less room for second ones. A hedge
// is no answer to a failure, and never free.
type retryBudget struct {
	share    float64 // of the requests in flight
	most     int     // retries of one request
	requests atomic.Int64
	retries  atomic.Int64
}

func newRetryBudget(share float64, most int) *retryBudget {
	return &retryBudget{share: share, most: most}
}

// limit is how many retries may be in flight.
func (b *retryBudget) limit() int64 {
	return max(retryBudgetMin, int64(float64(b.requests.Load())*b.share))
}

// begin and end frame a request.
func (b *retryBudget) begin() { b.requests.Add(1) }
func (b *retryBudget) end()   { b.requests.Add(-1) }

// take asks for the retry of a request that has made so many before. What was
// taken is given back by giveBack when the attempt has ended.
func (b *retryBudget) take(before int) bool {
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
func (b *retryBudget) takeSpare(before int) bool {
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

func (b *retryBudget) giveBack() { b.retries.Add(-1) }

// retries are those of one request.
type retries struct {
	made  int          // over other paths
	again int          // over the same one, on a fresh connection
	held  *retryBudget // that the current attempt, a retry, has its place from
	hedge *retryBudget // that the attempt beside it has its place from
}

// next asks the budget for one more retry, beside those that were counted. The
// attempt before has ended.
func (r *retries) next(b *retryBudget, counted *int) bool {
	r.end()
	if !b.take(*counted) {
		return false
	}
	*counted++
	r.held = b
	return true
}

// beside asks the budget for an attempt beside the current one.
func (r *retries) beside(b *retryBudget) bool {
	if r.hedge != nil || !b.takeSpare(r.made) {
		return false
	}
	r.made++
	r.hedge = b
	return true
}

// notBeside gives the place of the attempt beside the current one back.
func (r *retries) notBeside() {
	if r.hedge != nil {
		r.hedge.giveBack()
		r.hedge = nil
	}
}

// end gives the places of the last attempt, and of the one beside it, back.
func (r *retries) end() {
	r.notBeside()
	if r.held != nil {
		r.held.giveBack()
		r.held = nil
	}
}
