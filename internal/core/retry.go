package core

import (
	"errors"

	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/upstream"
)

// lost describes the attempt that has ended with err; ok is false where nothing can
// be done about it, which is the usual failure.
func (t *Request) lost(err error) (a retry.Attempt, ok bool) {
	a = retry.Attempt{
		ClientGone: t.clientGone(),
		Retries:    int(t.Retries.Again),
		Reused:     t.Outcome.Reused,
		Idempotent: t.Use == upstream.Tunnel || retry.Idempotent(t.HTTP.Method),
		Replayable: t.Body == nil || t.Body.Replayable(),
		Resent:     t.resent,
	}
	if e, via := errors.AsType[*upstream.Error](err); via {
		a.Upstream = true
		a.Stale, a.Written = e.Stale, e.Sent
		a.Elsewhere = !e.Final && e.Elsewhere()
		a.Exhausted = t.exhausted()
		return a, a.Stale || a.Elsewhere
	}
	stale, ok := errors.AsType[*retry.StaleError](err)
	if ok {
		a.Stale, a.Written = true, stale.Written
	}
	return a, ok
}

// WouldRetry reports whether the rules allow the request, whose attempt is about
// to fail with err, to be sent again.
func (t *Request) WouldRetry(err error) bool {
	a, ok := t.lost(err)
	return ok && a.Retryable()
}

// mayRetry reports whether the request, whose last attempt has failed with err,
// is sent again; if so, its body has been prepared for that.
func (t *Request) mayRetry(err error) bool {
	a, ok := t.lost(err)
	if !ok || !a.Retryable() || !t.takeRetry(a.SamePath()) {
		return false
	}
	t.resent = t.resent || a.Written && !a.SamePath()
	t.again = a.Upstream && a.SamePath()
	if t.Body != nil {
		t.Body.Rewind()
	}
	return true
}
