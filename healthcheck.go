package egress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// DestinationCircuit is the passive health of destinations: a destination that
// cannot be reached several times in a row is given a pause, in which requests
// for it fail at once with 503 and Retry-After instead of waiting for a dial.
// After the pause the next request is the one probe; its result closes the
// circuit or opens it again for longer. One that ends without a result, or has none
// after 30 seconds, opens it again for as long as before, and at least for as long as
// it has waited. The head of a response is the result of an exchange. Through a group, an
// exchange with a body, whose client may take its time, is the probe only where no other
// request comes for as long as the circuit was open.
//
// Only what happens before the first byte of the client's request was sent
// counts (resolving, connecting, the TLS handshake): a client that provokes
// resets cannot close a destination for others, and neither can answers like
// 500, refusals by policy, or clients that go away.
//
// Through a group, a destination has a circuit for each member that it has failed
// through. Failures count together; once one circuit is open, the first failure
// through another member opens that one's. Requests pass members over whose circuit
// is open, and are refused where nobody else is left: users of members that a site
// does not serve do not shut out those of others.
//
// Each path, directly or through a group, has circuits of its own, and so have routes
// with local addresses, an interface or a prefer_ip of their own. A reload keeps them
// while these settings and those that decide what can be reached on the path stay as
// they are.
type DestinationCircuit struct {
	// Off turns the circuit off: every request dials. Default: false.
	Off bool `json:"off,omitempty"`

	// Failures is how many failures in a row open the circuit.
	// Default: 5. At least 2, since one request alone must not be able to
	// close a destination for others.
	Failures int `json:"failures,omitempty"`

	// Window is the time within which the failures must fall. Default: 30s.
	Window caddy.Duration `json:"window,omitempty"`

	// OpenFor is the first pause. Each further one is 1.6 times as long.
	// Default: 2s.
	OpenFor caddy.Duration `json:"open_for,omitempty"`

	// MaxOpenFor is the longest pause. Default: 30s, or open_for where that is
	// longer.
	MaxOpenFor caddy.Duration `json:"max_open_for,omitempty"`
}

// withDefaults returns the settings with their defaults filled in.
func (c *DestinationCircuit) withDefaults() DestinationCircuit {
	out := DestinationCircuit{}
	if c != nil {
		out = *c
	}
	setDefault(&out.Failures, 5)
	setDefault(&out.Window, caddy.Duration(30*time.Second))
	setDefault(&out.OpenFor, caddy.Duration(2*time.Second))
	setDefault(&out.MaxOpenFor, max(caddy.Duration(30*time.Second), out.OpenFor))
	return out
}

func (c *DestinationCircuit) validate() error {
	switch {
	case c.Failures < 2:
		return fmt.Errorf("destination_circuit.failures: %d is too low: at least 2", c.Failures)
	case c.Window < 0:
		return errors.New("destination_circuit.window: must be positive")
	case c.OpenFor < 0:
		return errors.New("destination_circuit.open_for: must be positive")
	case c.MaxOpenFor < c.OpenFor:
		return fmt.Errorf("destination_circuit.max_open_for: %s is shorter than open_for (%s)",
			time.Duration(c.MaxOpenFor), time.Duration(c.OpenFor))
	}
	return nil
}

// maxDestinations bounds the destinations that are kept track of on one path. Only failing
// ones are; when there are more, the rest is served untracked.
const maxDestinations = 10_000

// forgetAfter is how long a destination that nobody asks for is remembered
// after its last failure.
const forgetAfter = 5 * time.Minute

// sweepEvery is how often, at most, those to be forgotten are looked for when another
// destination fails; where there is no room for it, they are looked for each second.
const sweepEvery = time.Minute

// destinations is the passive health of the destinations on one path, as one
// configuration sees it.
type destinations struct {
	*circuits
	via    string // the group that the path leads through; "" directly
	logger *zap.Logger
}

// circuits are those of the destinations on one path. They outlive configurations. A
// destination that works has no entry, so that the usual request costs one look at a
// counter.
type circuits struct {
	cfg health.CircuitConfig
	off bool

	states sync.Map // string (see destinations.key) → *destinationState
	count  atomic.Int64
	swept  atomic.Int64 // unix time of the last sweep
}

type destinationState struct {
	mu   sync.Mutex
	ways []*way    // at least one but for a new state
	last time.Time // of the last failure or question
	gone bool      // no longer in the map
}

// way is a member of a group, or the direct way, through which a destination has failed
// and was not reached since.
type way struct {
	via     uint64 // the key of the member; 0 directly
	circuit health.Circuit
}

// maxWays bounds the members that are told apart for one destination.
const maxWays = 16

// way returns that of a member, nil where it has not failed. Beyond maxWays, members
// share the last one.
func (s *destinationState) way(via uint64) *way {
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
func (s *destinationState) open() bool {
	return slices.ContainsFunc(s.ways, func(w *way) bool { return w.circuit.State() != health.Closed })
}

// fail records a failure and reports whether it opened a circuit. Failures through all
// members count together, and where a circuit is open already, one is enough.
func (s *destinationState) fail(now time.Time, via uint64, probe health.Token, cfg health.CircuitConfig) bool {
	n := 1
	for _, w := range s.ways {
		n += w.circuit.Failing(now, cfg.Window)
	}
	if n >= cfg.Failures || s.open() {
		cfg.Failures = 1
	}
	w := s.way(via)
	if w == nil {
		w = &way{via: via}
		s.ways = append(s.ways, w)
	}
	return w.circuit.Failure(now, probe, cfg)
}

func newCircuits(cfg DestinationCircuit) *circuits {
	return &circuits{
		off: cfg.Off,
		cfg: health.CircuitConfig{
			Failures:   cfg.Failures,
			Window:     time.Duration(cfg.Window),
			OpenFor:    time.Duration(cfg.OpenFor),
			MaxOpenFor: time.Duration(cfg.MaxOpenFor),
		},
	}
}

// circuitOpenError refuses a request because its destination has failed
// repeatedly.
type circuitOpenError struct {
	destination string
	retryAfter  time.Duration
}

// Failure is what it means for the request.
func (e *circuitOpenError) Failure() *failure.Failure { return failure.Circuit }

func (e *circuitOpenError) Error() string {
	return fmt.Sprintf("circuit of %s is open for another %s", e.destination, e.retryAfter.Round(time.Millisecond))
}

// report tells the circuit how the attempts that it allowed ended. The zero value
// has nothing to tell.
type report struct {
	to      *destinations
	dest    target.Target
	tls     bool
	current passage
	failed  []passage // that came before, through other members
}

// passage is an attempt at a destination on one way.
type passage struct {
	via   uint64
	way   *way // of which it has the turn of the probe; nil: of none
	probe health.Token
}

// tell charges the result, if it is one that the destination is to blame for. It
// must be called exactly once; what is told after that is not heard.
func (r *report) tell(err error) { r.settle(err, chargeable(err)) }

// settle is tell where it is known whether the destination is to blame.
func (r *report) settle(err error, charge bool) {
	d := r.to
	if d == nil {
		return
	}
	r.end(err, charge)
	r.to = nil
	if len(r.failed) > 0 {
		d.failure(r, err)
	}
	if err == nil {
		d.success(r)
	}
}

// end ends the current attempt, which may be followed by others.
func (r *report) end(err error, charge bool) {
	a := r.current
	switch {
	case r.to == nil || err == nil:
	case charge:
		r.failed = append(r.failed, a)
	case a.probe != 0:
		s := r.to.lookup(r.to.key(r))
		if s == nil {
			return
		}
		s.mu.Lock()
		if s.way(a.via) == a.way { // or it was forgotten in the meantime
			a.way.circuit.Unsettled(time.Now(), a.probe)
		}
		s.mu.Unlock()
	}
}

// key names the destination. With TLS it is another destination than without: a
// handshake that fails says nothing about tunnels to the same port, whose TLS is
// their client's. The path is told for people: what cannot be reached on one path may
// be well on the other, so each has its own circuits.
func (d *destinations) key(r *report) string {
	key := r.dest.String()
	if r.tls {
		key = "https://" + key
	}
	if d.via != "" {
		key = d.via + " → " + key
	}
	return key
}

// about begins a report on a destination.
func (d *destinations) about(dest target.Target, useTLS bool) report {
	if d.off {
		return report{}
	}
	return report{to: d, dest: dest, tls: useTLS}
}

// allow asks whether a destination may be asked for directly. When it may, the returned
// report must be told the result. If it is the probe, it has the turn for so long.
func (d *destinations) allow(dest target.Target, useTLS bool, turn time.Duration) (report, error) {
	r := d.about(dest, useTLS)
	if err := r.take(0, turn); err != nil {
		return report{}, err
	}
	return r, nil
}

// take is allow for an attempt through a member.
func (r *report) take(via uint64, turn time.Duration) error {
	r.current = passage{via: via}
	d := r.to
	if d == nil || d.count.Load() == 0 {
		return nil // the usual case costs no key
	}
	key := d.key(r)
	s := d.lookup(key)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.last = now
	w := s.way(via)
	if w == nil {
		return nil
	}
	ok, probe, wait := w.circuit.Allow(now, turn)
	switch {
	case !ok:
		return &circuitOpenError{destination: key, retryAfter: wait}
	case probe != 0:
		r.current.way, r.current.probe = w, probe
	}
	return nil
}

// shut returns the members through which the destination is not to be asked for now, and
// the error where nobody else is left.
func (r *report) shut() (vias []uint64, err error) {
	d := r.to
	if d == nil || d.count.Load() == 0 {
		return nil, nil
	}
	key := d.key(r)
	s := d.lookup(key)
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, least := time.Now(), time.Duration(0)
	s.last = now
	for _, w := range s.ways {
		if wait := w.circuit.Shut(now); wait > 0 {
			vias = append(vias, w.via)
			if least == 0 || wait < least {
				least = wait
			}
		}
	}
	if least > 0 {
		err = &circuitOpenError{destination: key, retryAfter: least}
	}
	return vias, err
}

func (d *circuits) lookup(key string) *destinationState {
	if d.count.Load() == 0 {
		return nil
	}
	s, _ := d.states.Load(key)
	state, _ := s.(*destinationState)
	return state
}

// exchangeTurn is for how long an exchange through a group has the turn of the probe. In
// absolute form nothing tells that the destination was reached before the head of the
// response, for which the origin may let its client wait.
const exchangeTurn = time.Second

// chargeable reports whether the destination is to blame for a dial that has failed: not
// for what the client, policy or this proxy's own limits did.
func chargeable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	switch failure.Of(err).Blame {
	case failure.BlameOrigin, failure.BlameDNS, failure.BlameNetwork:
		return true
	}
	return false
}

// success takes the way that it came on out of those that fail.
func (d *destinations) success(r *report) {
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
// tried: further members are of interest where a circuit is open.
func (d *destinations) failure(r *report, err error) {
	now, key := time.Now(), d.key(r)
	s := d.lockState(key, now)
	if s == nil {
		return
	}
	before := s.open()
	for i, a := range r.failed {
		probe := a.probe
		if a.way == nil || a.way != s.way(a.via) {
			probe = 0 // of one that was forgotten in the meantime
		}
		if i == 0 || s.open() {
			s.fail(now, a.via, probe, d.cfg)
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
func (d *circuits) lockState(key string, now time.Time) *destinationState {
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
			fresh := &destinationState{last: now}
			v, loaded := d.states.LoadOrStore(key, fresh)
			if loaded {
				d.count.Add(-1)
			}
			s = v.(*destinationState)
		}
		s.mu.Lock()
		if !s.gone {
			return s
		}
		s.mu.Unlock()
	}
}

// forget takes a locked state out of the map.
func (d *circuits) forget(key string, s *destinationState) {
	if !s.gone {
		s.gone = true
		d.states.CompareAndDelete(key, s)
		d.count.Add(-1)
	}
}

// sweep forgets destinations that nobody has asked for in a while, at most once
// a second, and reports whether there is room now.
func (d *circuits) sweep(now time.Time) bool {
	last := d.swept.Load()
	if last == now.Unix() || !d.swept.CompareAndSwap(last, now.Unix()) {
		return false
	}
	d.states.Range(func(k, v any) bool {
		s := v.(*destinationState)
		s.mu.Lock()
		if now.Sub(s.last) > forgetAfter {
			d.forget(k.(string), s)
		}
		s.mu.Unlock()
		return true
	})
	return d.count.Load() < maxDestinations
}
