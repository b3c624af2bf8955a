package health

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Upstream is the health of one upstream proxy, and its counters. It outlives
// configurations, so settings are passed in with each call. The zero value is
// ready, unknown and closed. It must not be copied.
//
// All methods are safe for concurrent use. Those that read, and Observe of a
// Success while nothing is wrong, take no lock and allocate nothing.
type Upstream struct {
	// Read by every pick, written on edges.
	word       atomic.Uint32 // packed Status; written with mu held
	dirty      atomic.Bool   // there is something that a success must forgive
	slow       atomic.Int64  // instant since which it starts slowly
	overload   atomic.Int64  // instant until which it is overloaded
	failedAt   atomic.Int64  // instant of a failed connect; of several, the first in an open period
	probeAt    atomic.Int64  // instant from which a probe may be tried; 0: none may
	cutting    atomic.Bool   // it cuts some that must not be sent twice, and has answered none since
	keepsUntil atomic.Uint64 // instant until which anybody is kept away
	share      atomic.Uint64 // the bits of the share of its weight that the operator wants it to have; 0: all

	_ [64]byte // what follows is written by every request

	latency   atomic.Int64 // mean in nanoseconds; 0: none yet
	latencyAt atomic.Int64 // instant of its last sample
	samples   atomic.Int32 // so many at first
	penalty   atomic.Int64 // in nanoseconds, as of penaltyAt; 0: none
	penaltyAt atomic.Int64
	exchanges atomic.Int64
	tunnels   atomic.Int64
	answered  atomic.Int64 // instant of the last success
	reached   atomic.Int64 // when it has reached a destination, for certain; an instant
	accepted  atomic.Int64 // instant when a login or a check has proved the credentials; of logins, the first
	known     known        // what it has reached
	served    seen         // for whom it has done so
	failing   seen         // for whom it has failed, maybe through the fault of an origin
	refusedTo seen         // for whom it has refused what was reached before, where it is told that
	window    window

	mu        sync.Mutex
	breaker   breaker
	spares    [SpareCauses]uint64 // how often it should have opened, and might not
	suspicion suspicion
	untold    int       // refusals that prove nothing, since the operator was told
	toldAt    instant   // when that was
	cut       suspicion // of requests that must not be sent twice
	charged   charges
	withheld  charges // of those that fail through several members
	own       charges // of those that others have reached
	asked     instant // a check was asked for because of an unanswered request
	admin     Admin
	connect   bool // the last connect failed
	checks    checks
	groups    []*Group // it belongs to
	since     instant  // when it came to be in rotation, or not, as it is now; 0: from the beginning
	why       Reason   // of that
}

// checks is the state of an upstream's active checks.
type checks struct {
	id       string        // of the check that it is of
	interval time.Duration // of that
	by       []*Checker    // who makes it

	goesOn *goingOn // without the Checker that has begun it; nil: none does
	left   *result  // of such a one

	activity activity
	failed   bool          // the last check
	own      bool          // its failure was surely its own
	due      instant       // of the next one
	backoff  time.Duration // while down
	at       instant       // of the last result
	outcome  CheckOutcome
	err      error // of the last check that did not pass
}

// Status returns the health as of now.
func (u *Upstream) Status() Status { return unpack(u.word.Load()) }

// Available reports whether the upstream is in rotation. Members of a group are
// picked from [Group.Available], which also knows about panic.
func (u *Upstream) Available() bool { return u.Status().InRotation() }

// Factor is the share (up to 1) of its weight that the upstream has at now: less
// while it is overloaded and while it starts slowly, and where the operator wants that.
func (u *Upstream) Factor(now time.Time, cfg *UpstreamConfig) float64 {
	share := u.Share()
	slow, overload := instant(u.slow.Load()), instant(u.overload.Load())
	if slow == 0 && overload == 0 {
		return share
	}
	t := instantOf(now)
	return share * min(ramp(t, slow, cfg.SlowStart), ramp(t, overload, cfg.SlowStart))
}

// SetShare sets which share of its weight (above 0, at most 1) the operator wants the
// upstream to have.
func (u *Upstream) SetShare(share float64) { u.share.Store(math.Float64bits(share)) }

// Share is what SetShare has set; 1 in the beginning.
func (u *Upstream) Share() float64 {
	if bits := u.share.Load(); bits != 0 {
		return math.Float64frombits(bits)
	}
	return 1
}

// answeredWithin reports whether there was a success not longer than d ago.
func (u *Upstream) answeredWithin(now instant, d time.Duration) bool {
	at := instant(u.answered.Load())
	return at != 0 && now.sub(at) <= d
}

// StartExchange and EndExchange count an exchange under way.
func (u *Upstream) StartExchange() { u.exchanges.Add(1) }

// EndExchange takes back StartExchange.
func (u *Upstream) EndExchange() { u.exchanges.Add(-1) }

// StartTunnel and EndTunnel count a tunnel under way.
func (u *Upstream) StartTunnel() { u.tunnels.Add(1) }

// EndTunnel takes back StartTunnel.
func (u *Upstream) EndTunnel() { u.tunnels.Add(-1) }

// Exchanges returns how many exchanges are under way.
func (u *Upstream) Exchanges() int64 { return u.exchanges.Load() }

// Tunnels returns how many tunnels are under way.
func (u *Upstream) Tunnels() int64 { return u.tunnels.Load() }

// InFlight returns how many exchanges and tunnels are under way.
func (u *Upstream) InFlight() int64 { return u.exchanges.Load() + u.tunnels.Load() }

// SetAdmin sets what the operator wants.
func (u *Upstream) SetAdmin(a Admin) Transition {
	return u.step(instantOf(time.Now()), func() Reason { u.admin = a; return ReasonAdmin })
}

// ForgetChecks returns the upstream to unknown. It is for configurations without
// active checks: without it, one that was down when they ended would stay down.
func (u *Upstream) ForgetChecks() Transition {
	return u.step(instantOf(time.Now()), func() Reason { u.checks.cut(); u.checks = checks{}; return ReasonUnchecked })
}

// TryProbe takes the turn of the probe: the next request goes through this
// upstream, and its result must be told to Observe with the token, exactly once.
// The token is zero where it is the trial of an upstream that may not be ejected, which
// is told like any other request. ok is false if no probe is due, or one is under way beside
// which this one may not go. After limit, which is at most ProbeLimit, its time is over:
// another may be sent some time later.
func (u *Upstream) TryProbe(now time.Time, cfg *UpstreamConfig, limit time.Duration, client Client) (tok Token, ok bool) {
	t := instantOf(now)
	if at := u.probeAt.Load(); at == 0 || t < instant(at) {
		return 0, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch s := u.status(); {
	case s.InRotation() && s.Spared:
		ok = u.breaker.tryTrial(t, client, cfg)
	case s.probeable():
		if u.breaker.overdue(t) {
			oldest := u.breaker.oldest
			u.openAgain(u.breaker.probeEnd, cfg)
			u.breaker.oldest = oldest // it may still tell a result
			u.breaker.leaving.add(u.breaker.by)
		}
		tok = u.breaker.tryProbe(t, client, min(limit, ProbeLimit), cfg)
		ok = tok != 0
	}
	u.publish()
	return tok, ok
}

// status is the status as of now; called with mu held.
func (u *Upstream) status() Status {
	return Status{
		Spared:        u.breaker.spared,
		Admin:         u.admin,
		Active:        u.checks.activity.state,
		Circuit:       u.breaker.state,
		AuthFault:     u.breaker.auth,
		ConnectFailed: u.connect,
		CheckFailed:   u.checks.failed,
	}
}

// publish makes the status visible to readers without lock; called with mu held.
func (u *Upstream) publish() {
	s := u.status()
	u.word.Store(s.pack())
	at := instant(0)
	switch {
	case s.InRotation() && s.Spared:
		at = u.breaker.tryAt
	case s.probeable():
		at = u.breaker.due()
	}
	u.probeAt.Store(int64(at))
}

// step runs one step of the machines under the lock and tells the groups when it
// changed what they pick from.
func (u *Upstream) step(now instant, do func() Reason) (t Transition) {
	u.mu.Lock()
	defer u.mu.Unlock()
	from, until, failedAt := unpack(u.word.Load()), u.breaker.until, u.failedAt.Load()
	reason := do()
	u.publish()
	to := u.status()
	if from != to || until != u.breaker.until || failedAt != u.failedAt.Load() {
		for _, g := range u.groups {
			g.outdate()
		}
	}
	if edge(from, to) || from.Spared != to.Spared {
		u.since, u.why = now, reason
	}
	if edge(from, to) {
		t = Transition{Upstream: u, From: from, To: to, Reason: reason}
	}
	return t
}

// ejecting is held while a group is asked whether a member may be ejected and
// until that is visible, so that two at once do not exceed the cap. It is one for
// all groups since an upstream may belong to several (the old and the new
// configuration during a reload), and it is taken at most once a second for each
// failing upstream.
var ejecting sync.Mutex

// eject opens the circuit, or spares the upstream where one of the groups forbids that.
// Called with mu held.
func (u *Upstream) eject(now instant, cfg *UpstreamConfig, reason Reason) Reason {
	if now < u.breaker.askAt {
		return ""
	}
	u.breaker.doubted = reason == ReasonElsewhere || reason == ReasonSuspicion
	ejecting.Lock()
	defer ejecting.Unlock()
	for _, g := range u.groups {
		if why, ok := g.mayEject(u); !ok {
			if !u.breaker.spared {
				u.spares[why]++
			}
			u.breaker.spare(now, cfg)
			return ""
		}
	}
	u.open(now, cfg, true)
	u.publish()
	return reason
}

// groupServes reports whether a member of one of its groups has answered since
// its circuit opened last. Where nobody does, to leave it alone for longer gains nothing.
// Called with mu held.
func (u *Upstream) groupServes() bool {
	return len(u.groups) == 0 || slices.ContainsFunc(u.groups, func(g *Group) bool {
		return slices.ContainsFunc(g.Members(), func(m *Member) bool {
			return instant(m.Upstream.answered.Load()) >= u.breaker.openedAt
		})
	})
}

// open opens the circuit; called with mu held.
func (u *Upstream) open(now instant, cfg *UpstreamConfig, longer bool) {
	u.breaker.open(now, cfg, longer, cfg.Jitter*rand.Float64())
	u.suspicion.clear()
	u.asked = 0
}

// openAgain opens the circuit after a probe that proved nothing, for as long as before
// and at least for as long as the probe has waited: an upstream that hangs must not get
// each next request as the next probe. Called with mu held.
func (u *Upstream) openAgain(now instant, cfg *UpstreamConfig) {
	waited, oldest := u.breaker.waited(now), u.breaker.oldest
	u.open(now, cfg, false)
	u.breaker.until = max(u.breaker.until, now.add(waited))
	u.breaker.keepOther(oldest)
	if u.breaker.leftUntil != 0 {
		u.leaveProbe(u.breaker.until.add(leaveTo))
	}
}

// openFor opens the circuit after a probe that has told nothing, for so long. Called with
// mu held.
func (u *Upstream) openFor(now instant, cfg *UpstreamConfig, d time.Duration) {
	u.openAgain(now, cfg)
	u.breaker.until = now.add(d)
}

// close closes the circuit after a failure; called with mu held.
func (u *Upstream) close(now instant) {
	u.breaker.close(now)
	u.window.reset()
	u.charged.forgiven(true)
	u.slow.Store(int64(now))
}

func (u *Upstream) join(g *Group) {
	u.mu.Lock()
	u.groups = append(u.groups, g)
	u.mu.Unlock()
}

func (u *Upstream) leave(g *Group) {
	u.mu.Lock()
	if i := slices.Index(u.groups, g); i >= 0 {
		u.groups = slices.Delete(u.groups, i, i+1)
	}
	u.mu.Unlock()
}
