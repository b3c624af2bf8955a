package metrics

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
)

// holds is held while recorders are made and forgotten: who forgets one must not take the
// series of its successor along.
var holds sync.Mutex

// Use is one configuration's hold on a recorder. The handler and each of its requests and
// tunnels have a part in it, so that the recorder is released by whoever goes last: what a
// handler has left behind is counted to its end, and found by one that comes back. It holds
// nothing else of the configuration.
type Use struct {
	handler  string
	groups   []string // of its configuration
	names    []string // of the users that it tells apart, OtherUsers among them
	parts    atomic.Int64
	recorder atomic.Pointer[Recorder]
	users    atomic.Pointer[users]

	mu   sync.Mutex // held where the first part is taken, and the last one given back
	hold *shared.Use[*Recorder]
}

// Acquire takes a hold on the recorder of the handler at a place, for a configuration with some
// groups that tells some users apart. Release gives the part of the handler back.
func Acquire(handler string, groups, users []string) *Use {
	u := &Use{handler: handler, groups: groups}
	if len(users) > 0 {
		u.names = append(slices.Clone(users), OtherUsers)
	}
	u.take()
	return u
}

// Release gives the part of the handler back. A nil use has none.
func (u *Use) Release() {
	if u != nil {
		u.giveBack()
	}
}

// take takes a part. Where all were given back already, a request that outlived its
// configuration has come late.
func (u *Use) take() *Recorder {
	for n := u.parts.Load(); n > 0; n = u.parts.Load() {
		if u.parts.CompareAndSwap(n, n+1) {
			return u.recorder.Load()
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.hold == nil {
		holds.Lock()
		defer holds.Unlock()
		u.hold, _ = recorders.Use(u.handler, func() (*Recorder, error) { return newRecorder(u.handler), nil }) // no error
		u.recorder.Store(u.hold.Value)
		u.hold.Value.enter(u.groups, u.names)
		u.users.Store(newUsers(u.handler, u.names))
	}
	u.parts.Add(1)
	return u.recorder.Load()
}

func (u *Use) giveBack() {
	if u.parts.Add(-1) > 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.parts.Load() == 0 && u.hold != nil {
		holds.Lock()
		defer holds.Unlock()
		u.hold.Value.leave(u.groups, u.names)
		_ = u.hold.Release()
		u.hold = nil
	}
}

// Begin implements core.Recorder.
func (u *Use) Begin(use upstream.Use) { u.take().begin(use) }

// Ended implements core.Recorder.
func (u *Use) Ended(t *core.Request) {
	u.recorder.Load().ended(t)
	u.users.Load().of(t).ended(t)
	u.giveBack()
}

// Stands implements core.Recorder.
func (u *Use) Stands(t *core.Request) (ended func(relay.Result)) {
	s, start := u.take().stands(t), t.Start
	user := u.users.Load().of(t)
	return func(result relay.Result) {
		s.closed(result.Reason, time.Since(start))
		if f := core.BrokenBy(result.Reason); f != nil {
			failures.WithLabelValues(s.of.handler, s.kind, stageTunnel, string(f.Blame), f.Type).Inc()
		}
		s.moved(result.BytesUp, result.BytesDown)
		user.moved(result.BytesUp, result.BytesDown)
		u.giveBack()
	}
}

// Interface guards
var _ core.Recorder = (*Use)(nil)
