package auth

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"sync"
	"time"
	"weak"
)

// This file contains what keeps slow checks from being made twice: sums of those that
// succeeded, and one check for all who ask the same at once.

// sharedVerifier serves all handlers of the process, over reloads: neither the
// limit nor what is known about a password belongs to one configuration.
var sharedVerifier = newVerifier(max(1, runtime.GOMAXPROCS(0)/2))

// lookInterval is how often a client that waits is looked at: net/http sees on HTTP/1.1
// that one has left only when the body of the request was read.
const lookInterval = time.Second

// verifier runs the slow checks: few at a time, equal ones once, and those
// that succeeded not again.
type verifier struct {
	queue  checkQueue
	nslots int64

	mu      sync.Mutex
	flights map[credentialSum]*flight                  // guarded by mu
	known   map[credentialSum]weak.Pointer[remembered] // guarded by mu: by user and hash
	purge   int                                        // guarded by mu: size of known at which the dead are removed
}

// flight is a check that runs or waits, and those who wait for it.
type flight struct {
	waiting int // guarded by the mu of the verifier
	cancel  context.CancelFunc
	done    chan struct{}
	ok      bool // set before done is closed, as err is
	err     error
}

func newVerifier(slots int) *verifier {
	return &verifier{
		queue:   checkQueue{free: int64(slots), networks: make(map[netip.Prefix]*checkNetwork)},
		nslots:  int64(slots),
		flights: make(map[credentialSum]*flight),
		known:   make(map[credentialSum]weak.Pointer[remembered]),
	}
}

// memory is what is remembered of a user with a hash, also from configurations before.
func (v *verifier) memory(user string, hashed []byte) *remembered {
	key := sumCredential([]byte(user), hashed, nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.known[key].Value(); r != nil {
		return r
	}
	if len(v.known) >= v.purge {
		maps.DeleteFunc(v.known, func(_ credentialSum, p weak.Pointer[remembered]) bool { return p.Value() == nil })
		v.purge = max(64, 2*len(v.known))
	}
	r := new(remembered)
	v.known[key] = weak.Make(r)
	return r
}

// verify returns the result of check for sum. Results are shared with those who wait
// for the same check; only success is remembered, in what is known of the user. A check
// for which nobody waits any more is cancelled: where ctx ends, or gone says so.
func (v *verifier) verify(ctx context.Context, gone func() bool, known *remembered, sum credentialSum, check func(context.Context) (bool, error)) (bool, error) {
	if gone() {
		return false, context.Canceled
	}
	v.mu.Lock()
	f := v.flights[sum]
	switch {
	case f != nil:
	case known.is(&sum): // the flight before this one has landed since somebody looked
		v.mu.Unlock()
		return true, nil
	default:
		f = v.launch(ctx, known, sum, check)
	}
	f.waiting++
	v.mu.Unlock()
	left := f.landed(ctx, gone)
	if left == nil {
		return f.ok, f.err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		if v.flights[sum] == f {
			delete(v.flights, sum)
		}
	}
	return false, left
}

// landed waits for the end of a check, or returns an error where nobody waits for it
// any more.
func (f *flight) landed(ctx context.Context, gone func() bool) error {
	looks := time.NewTicker(lookInterval)
	defer looks.Stop()
	for {
		select {
		case <-f.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-looks.C:
			if gone() {
				return context.Canceled
			}
		}
	}
}

// launch begins a check. It belongs to all who wait for it. v.mu is held.
func (v *verifier) launch(ctx context.Context, known *remembered, sum credentialSum, check func(context.Context) (bool, error)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, done: make(chan struct{})}
	v.flights[sum] = f
	go func() {
		defer close(f.done)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				f.ok, f.err = false, fmt.Errorf("checking a password has panicked: %v", p)
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.flights[sum] == f {
				delete(v.flights, sum)
			}
		}()
		if f.ok, f.err = check(ctx); f.ok && known != nil {
			known.sum.Store(&sum)
		}
	}()
	return f
}

// acquire waits for room for a check of that many threads. Only so many run at
// once that guessing passwords leaves CPUs for those who are logged in.
func (v *verifier) acquire(ctx context.Context, client string, threads int64) (release func(), err error) {
	n := min(threads, v.nslots)
	if err := v.queue.acquire(ctx, client, n); err != nil {
		return nil, err
	}
	return func() { v.queue.release(n) }, nil
}
