package core

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains how often the log tells, at Warn, that a limit of the proxy's own
// was hit, or that a group had no upstream left. Whoever attacks decides how many
// requests are refused, and must not decide how much is written.

// limitLogPause is the least time between two such lines of a handler for one reason.
const limitLogPause = time.Second

// limitQuiet is how long a limit has refused nobody before it counts as reached anew.
const limitQuiet = 10 * time.Second

// LimitLog lets one line a second through for each reason. Its zero value is ready.
type LimitLog struct {
	reached func(limit string, client Client) // nil for nobody
	use     *shared.Use[*refusals]

	samples sync.Map // sample → *sampleState; as many as there are reasons
}

// refusals are when limits of a handler have refused a request last. They outlive a
// configuration: a limit that refuses is not reached anew by a reload.
type refusals struct {
	last sync.Map // string → *atomic.Int64, unix time in nanoseconds; as many as LimitOf knows
}

// Destruct forgets them.
func (*refusals) Destruct() error { return nil }

// sharedRefusals are those of this process, by the place of the handler.
var sharedRefusals = shared.NewPool[*refusals]()

// Tell has reached told of a limit of the handler at a place that refuses after it has refused
// nobody for a while, and whom it refuses. It must not block. End ends it, but for requests
// that are under way.
func (l *LimitLog) Tell(place string, reached func(limit string, client Client)) (err error) {
	l.use, err = sharedRefusals.Use(place, func() (*refusals, error) { return new(refusals), nil })
	l.reached = reached
	return err
}

// tell tells of a limit that has refused a request, unless it did so a moment ago.
func (l *LimitLog) tell(limit string, client Client, now time.Time) {
	if limit == "" || l.reached == nil {
		return
	}
	refused := &l.use.Value.last
	v, found := refused.Load(limit)
	if !found {
		v, _ = refused.LoadOrStore(limit, new(atomic.Int64))
	}
	last, at := v.(*atomic.Int64), now.UnixNano()
	if before := last.Swap(at); before == 0 || at-before >= int64(limitQuiet) {
		l.reached(limit, client)
	}
}

// sample is what lines have in common of which one a second is written. There are few.
type sample struct {
	level           zapcore.Level
	message, reason string
}

type sampleState struct {
	next     atomic.Int64 // unix time in nanoseconds from which a line may be written
	withheld atomic.Int64 // lines since the last one
}

// allow reports whether a line may be written, and how many were not since the last. Where
// no other line follows, those that were withheld are told a moment later.
func (l *LimitLog) allow(of sample, logger *zap.Logger, now time.Time) (ok bool, withheld int64) {
	v, found := l.samples.Load(of)
	if !found {
		v, _ = l.samples.LoadOrStore(of, new(sampleState))
	}
	s, at := v.(*sampleState), now.UnixNano()
	next := s.next.Load()
	mine := at + int64(limitLogPause)
	if at < next || !s.next.CompareAndSwap(next, mine) {
		s.withheld.Add(1)
		return false, 0
	}
	time.AfterFunc(2*limitLogPause, func() {
		if s.next.Load() == mine {
			s.flush(of, logger)
		}
	})
	return true, s.withheld.Swap(0)
}

// flush tells of lines that were withheld and that no line has told of.
func (s *sampleState) flush(of sample, logger *zap.Logger) {
	if n := s.withheld.Swap(0); n > 0 {
		logger.Log(of.level, of.message+", as others before", zap.String("because", of.reason), zap.Int64("withheld", n))
	}
}

// End tells of all that was withheld: the logger is about to end.
func (l *LimitLog) End(logger *zap.Logger) {
	_ = l.use.Release() // forgetting it does not fail
	l.samples.Range(func(of, s any) bool {
		s.(*sampleState).flush(of.(sample), logger)
		return true
	})
}

// LimitOf names the limit of this proxy that has refused a request with a failure and the
// error behind it; "" where none has. There are few names.
func LimitOf(f *failure.Failure, err error) string {
	switch f {
	case failure.Limit:
		for _, limit := range [...]struct {
			err  error
			name string
		}{
			{tunnels.ErrMax, "tunnel.max_tunnels"}, {tunnels.ErrMaxPerClient, "tunnel.max_per_client"}, {tunnels.ErrMaxPerUser, "tunnel.max_per_user"},
		} {
			if errors.Is(err, limit.err) {
				return limit.name
			}
		}
		return limitReason(err)
	case failure.Holding:
		if e, ok := errors.AsType[*origin.HoldingError](err); ok {
			return "transport." + e.Setting
		}
		return "other"
	case failure.Logins:
		return "logins"
	case failure.ClientLogins:
		return "logins_per_client"
	}
	return ""
}

// LimitOfGroup is what LimitOf names the limits on the upstreams of a group.
func LimitOfGroup(group string) string { return "upstreams of " + group }

// limitReason tells limits, and groups, apart. There are few answers, none made of what
// clients send.
func limitReason(err error) string {
	if e, ok := errors.AsType[*connpool.LimitError](err); ok {
		return e.Scope
	}
	if e, ok := errors.AsType[*upstream.NobodyError](err); ok {
		return LimitOfGroup(e.Group)
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
