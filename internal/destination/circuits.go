package destination

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// maxDestinations bounds the destinations that are kept track of on one path. Only failing
// ones are; when there are more, the rest is served untracked.
const maxDestinations = 10_000

// forgetAfter is how long a destination that nobody asks for is remembered
// after its last failure.
const forgetAfter = 5 * time.Minute

// sweepEvery is how often, at most, those to be forgotten are looked for when another
// destination fails; where there is no room for it, they are looked for each second.
const sweepEvery = time.Minute

// Path is the passive health of the destinations on one path, as one
// configuration sees it.
type Path struct {
	*Circuits
	via    string // the group that the path leads through; "" directly
	logger *zap.Logger
}

// Circuits are those of the destinations on one path. They outlive configurations. A
// destination that works has no entry, so that the usual request costs one look at a
// counter.
type Circuits struct {
	cfg health.CircuitConfig
	off bool

	states sync.Map // string (see destinations.key) → *state
	count  atomic.Int64
	swept  atomic.Int64 // unix time of the last sweep
}

type state struct {
	mu   sync.Mutex
	ways []*way    // at least one but for a new state
	last time.Time // of the last failure or question

	// charged is the question that the last failure was the answer to, nil where it was
	// none. All who waited for it, and who get it while it is remembered, fail with it.
	charged *dnscache.Question
	gone    bool // no longer in the map
}

// way is a member of a group, or the direct way, through which a destination has failed
// and was not reached since.
type way struct {
	via     uint64 // the key of the member; 0 directly
	circuit health.Circuit
	cause   *failure.Failure // the last failure
	at      time.Time        // of that
	err     string           // behind it
}

// maxWays bounds the members that are told apart for one destination.
const maxWays = 16

// way returns that of a member, nil where it has not failed. Beyond maxWays, members
// share the last one.
func (s *state) way(via uint64) *way {
	for _, w := range s.ways {
		if w.via == via {
			return w
		}
	}
	if len(s.ways) == maxWays {
		return s.ways[maxWays-1]
	}
	return nil
}

// open reports whether any of the circuits is not closed.
func (s *state) open() bool {
	return slices.ContainsFunc(s.ways, func(w *way) bool { return w.circuit.State() != health.Closed })
}

// fail records a failure and reports whether it opened a circuit. Failures through all
// members count together, and where a circuit is open already, one is enough.
func (s *state) fail(now time.Time, a *failed, probe health.Token, cfg health.CircuitConfig) bool {
	n := 1
	for _, w := range s.ways {
		n += w.circuit.Failing(now, cfg.Window)
	}
	if n >= cfg.Failures || s.open() {
		cfg.Failures = 1
	}
	w := s.way(a.via)
	if w == nil {
		w = &way{via: a.via}
		s.ways = append(s.ways, w)
	}
	w.cause, w.at, w.err = a.cause, now, a.text
	return w.circuit.Failure(now, probe, cfg)
}

// New returns circuits that are all closed. Those that are off never open.
func New(cfg health.CircuitConfig, off bool) *Circuits {
	return &Circuits{cfg: cfg, off: off}
}

// OpenError refuses a request because its destination has failed
// repeatedly.
type OpenError struct {
	destination string
	RetryAfter  time.Duration
	Causes      []*failure.Failure // the last failure on each way that is shut
}

// Failure is what it means for the request.
func (e *OpenError) Failure() *failure.Failure {
	for _, cause := range e.Causes {
		if cause != failure.NoName {
			return failure.Circuit
		}
	}
	if len(e.Causes) == 0 {
		return failure.Circuit
	}
	return failure.NoNameCircuit
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("circuit of %s is open for another %s", e.destination, e.RetryAfter.Round(time.Millisecond))
}

// key names the destination. With TLS it is another destination than without: a
// handshake that fails says nothing about tunnels to the same port, whose TLS is
// their client's. And it is another one for each source that is kept apart by user: the
// address of one may be banned there. The path is told for people: what cannot be reached
// on one path may be well on the other, so each has its own circuits.
func (d *Path) key(r *Charge) string {
	key := r.dest.String()
	if r.tls {
		key = "https://" + key
	}
	if r.slot != 0 {
		key += " from source " + strconv.FormatUint(uint64(r.slot), 10)
	}
	return d.prefix() + key
}

// prefix is what stands before the names of destinations.
func (d *Path) prefix() string {
	if d.via == "" {
		return ""
	}
	return d.via + " → "
}

// About begins a report on a destination.
func (d *Path) About(dest target.Target, useTLS bool) Charge {
	if d.off {
		return Charge{}
	}
	return Charge{to: d, dest: dest, tls: useTLS}
}

// Allow asks whether a destination may be asked for directly, from the source of a slot; 0
// where sources are not kept apart. When it may, the returned report must be told the
// result. If it is the probe, it has the turn for so long.
func (d *Path) Allow(dest target.Target, useTLS bool, slot uint32, turn time.Duration) (Charge, error) {
	r := d.About(dest, useTLS)
	r.slot = slot
	if open := r.Take(0, turn); open != nil {
		return Charge{}, open
	}
	return r, nil
}

// Tracked is how many destinations are kept track of: those that have failed lately.
func (d *Circuits) Tracked() int { return int(d.count.Load()) }

// Look tells of the circuits of a destination, and takes no turn: the state of the first
// that is not closed, and directly the error that refuses a request from the source of a
// slot.
func (d *Path) Look(dest target.Target, useTLS bool, slot uint32) (string, error) {
	if d.off {
		return "off", nil
	}
	r := d.About(dest, useTLS)
	r.slot = slot
	var err error
	if _, open := r.Shut(); open != nil {
		err = open
	}
	state := health.Closed
	if s := d.lookup(d.key(&r)); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.ways {
			if state == health.Closed {
				state = w.circuit.State()
			}
		}
	}
	return state.String(), err
}

// Path is what a configuration sees of the circuits on a path. via is the group that it
// leads through, "" directly.
func (d *Circuits) Path(via string, logger *zap.Logger) *Path {
	return &Path{d, via, logger}
}

func (d *Circuits) lookup(key string) *state {
	if d.count.Load() == 0 {
		return nil
	}
	s, _ := d.states.Load(key)
	state, _ := s.(*state)
	return state
}

// success takes the way that it came on out of those that fail.
func (d *Path) success(r *Charge) {
	if d.count.Load() == 0 {
		return
	}
	key := d.key(r)
	s := d.lookup(key)
	if s == nil {
		return
	}
	s.mu.Lock()
	before := s.open()
	if w := s.way(r.current.via); w != nil {
		s.ways = slices.DeleteFunc(s.ways, func(other *way) bool { return other == w })
	}
	if len(s.ways) == 0 {
		d.forget(key, s)
	}
	changed := before && !s.open()
	s.mu.Unlock()
	if changed {
		d.logger.Info("destination is reachable again: circuit closed", zap.String("destination", key))
	}
}

// failure records the attempts that have failed. A request counts once, whatever it has
// tried: further members are of interest where a circuit is open. And so does a question
// about the name, whoever waited for its answer: a page asks for a name many times at
// once, and a failure that is remembered is no further one.
func (d *Path) failure(r *Charge, err error) {
	now, key := time.Now(), d.key(r)
	s := d.lockState(key, now)
	if s == nil {
		return
	}
	before, counted := s.open(), false
	for _, a := range r.failed {
		probe := a.probe
		if a.way == nil || a.way != s.way(a.via) {
			probe = 0 // of one that was forgotten in the meantime
		}
		switch {
		case a.question != nil && a.question == s.charged:
			if probe != 0 {
				a.way.circuit.Unsettled(now, probe)
			}
		case !counted || s.open():
			s.fail(now, &a, probe, d.cfg)
			s.charged, counted = a.question, true
		}
	}
	s.last = now
	changed := !before && s.open()
	s.mu.Unlock()
	if changed {
		d.logger.Info("destination fails repeatedly: circuit opened", zap.String("destination", key), zap.Error(err))
	}
}

// lockState returns the locked state of a destination, a new one if need be,
// or nil where there are too many.
func (d *Circuits) lockState(key string, now time.Time) *state {
	for {
		s := d.lookup(key)
		if s == nil {
			if now.Unix()-d.swept.Load() >= int64(sweepEvery/time.Second) {
				d.sweep(now)
			}
			if d.count.Add(1) > maxDestinations {
				d.count.Add(-1)
				if !d.sweep(now) {
					return nil
				}
				continue
			}
			fresh := &state{last: now}
			v, loaded := d.states.LoadOrStore(key, fresh)
			if loaded {
				d.count.Add(-1)
			}
			s = v.(*state)
		}
		s.mu.Lock()
		if !s.gone {
			return s
		}
		s.mu.Unlock()
	}
}

// forget takes a locked state out of the map.
func (d *Circuits) forget(key string, s *state) {
	if !s.gone {
		s.gone = true
		d.states.CompareAndDelete(key, s)
		d.count.Add(-1)
	}
}

// sweep forgets destinations that nobody has asked for in a while, at most once
// a second, and reports whether there is room now.
func (d *Circuits) sweep(now time.Time) bool {
	last := d.swept.Load()
	if last == now.Unix() || !d.swept.CompareAndSwap(last, now.Unix()) {
		return false
	}
	d.states.Range(func(k, v any) bool {
		s := v.(*state)
		s.mu.Lock()
		if now.Sub(s.last) > forgetAfter {
			d.forget(k.(string), s)
		}
		s.mu.Unlock()
		return true
	})
	return d.count.Load() < maxDestinations
}
