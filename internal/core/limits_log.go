package core

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains how often the log tells, at Warn, that a limit of the proxy's own
// was hit, or that a group had no upstream left. Whoever attacks decides how many
// requests are refused, and must not decide how much is written.

// limitLogPause is the least time between two such lines of a handler for one reason.
const limitLogPause = time.Second

// LimitLog lets one line a second through for each reason. Its zero value is ready.
type LimitLog struct {
	reasons sync.Map // string → *limitLogState; as many as limitReason knows
}

type limitLogState struct {
	next     atomic.Int64 // unix time in nanoseconds from which a line may be written
	withheld atomic.Int64 // lines since the last one
}

// allow reports whether a line may be written, and how many were not since the last.
func (l *LimitLog) allow(reason string, now time.Time) (ok bool, withheld int64) {
	v, found := l.reasons.Load(reason)
	if !found {
		v, _ = l.reasons.LoadOrStore(reason, new(limitLogState))
	}
	s, at := v.(*limitLogState), now.UnixNano()
	if next := s.next.Load(); at < next || !s.next.CompareAndSwap(next, at+int64(limitLogPause)) {
		s.withheld.Add(1)
		return false, 0
	}
	return true, s.withheld.Swap(0)
}

// limitReason tells limits, and groups, apart. There are few answers, none made of what
// clients send.
func limitReason(err error) string {
	if e, ok := errors.AsType[*connpool.LimitError](err); ok {
		return e.Scope
	}
	if e, ok := errors.AsType[*upstream.NobodyError](err); ok {
		return "upstreams of " + e.Group
	}
	for _, limit := range [...]error{tunnels.ErrMax, tunnels.ErrMaxPerClient, tunnels.ErrMaxPerUser} {
		if errors.Is(err, limit) {
			return limit.Error()
		}
	}
	if descriptors.Out(err) {
		return "descriptors"
	}
	if errors.Is(err, dnscache.ErrNoTurn) {
		return "questions"
	}
	return "other"
}
