package health

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// longWait is how long the scheduler sleeps when nothing is due.
const longWait = time.Hour

// schedule is what the scheduler of a Checker knows. No one else touches it.
type schedule struct {
	entries map[*Upstream]*entry
	queue   queue      // entries that are neither running nor held, by due time
	members *[]*Member // as of the last look
	running int
	idle    int // entries put off because nobody uses the group

	held      []*entry // whose failures wait until another member was asked; some may be gone
	asking    bool     // for them, witnesses are being asked
	witnesses []*entry // left to be asked, the best last
	checked   int      // members that are being checked: running, without those that are gone

	traffic  instant // when the group was last seen in use
	passedAt instant // when a check of any member passed last
}

// entry is one member.
type entry struct {
	m       *Member
	due     instant
	index   int  // in the queue, -1 if not there
	force   bool // due whatever another Checker did in the meantime
	running bool
	again   bool // to be checked once more after this check
	gone    bool // no member any more
	idle    bool // scheduled as one of a group that nobody uses
	started instant
	settled instant // when the last outcome was known

	told    bool    // that it is the last one, and its targets fail
	held    *result // a failure that does not count yet
	muteFor instant // until when its failure is known, so that it need not be asked
}

// sync follows the members, what was asked for, and whether the group is in use.
func (c *Checker) sync(now instant) {
	s := &c.schedule
	if members := c.group.members.Load(); members != s.members {
		s.members = members
		c.follow(now, *members)
	}
	c.mu.Lock()
	var asks map[*Upstream]*Member // ours alone: who asks writes to the one in c
	if len(c.asks) > 0 {
		asks, c.asks = c.asks, make(map[*Upstream]*Member)
	}
	c.mu.Unlock()
	for u, m := range asks {
		if e := s.entries[u]; e != nil {
			e.again = m != nil && (e.running || e.held != nil) || e.again
			c.hurry(e, now, m != nil)
		} else if m != nil {
			c.unchecked(m)
		}
	}
	if s.idle > 0 && c.group.used.Load() {
		c.wakeIdle(now)
	}
	c.resolve(now)
}

// follow adds and drops entries.
func (c *Checker) follow(now instant, members []*Member) {
	s := &c.schedule
	left := s.entries
	s.entries = make(map[*Upstream]*entry, len(members))
	for _, m := range members {
		e := left[m.Upstream]
		if e == nil {
			// Whether it is really due the upstream knows: see claimCheck.
			m.Upstream.takeUpChecks(now, c)
			e = &entry{m: m, due: now, index: -1}
			heap.Push(&s.queue, e)
		}
		e.m = m
		s.entries[m.Upstream] = e
		delete(left, m.Upstream)
	}
	for u, e := range left {
		u.letGoOfChecks(c, e.m)
		e.gone, e.held = true, nil
		s.setIdle(e, false)
		c.unchecked(e.m)
		if e.running {
			s.checked--
		}
		if e.index >= 0 {
			heap.Remove(&s.queue, e.index)
		}
	}
}

func (s *schedule) setIdle(e *entry, idle bool) {
	if e.idle != idle {
		e.idle = idle
		if idle {
			s.idle++
		} else {
			s.idle--
		}
	}
}

// hurry makes an entry due at once; force: whatever the upstream says.
func (c *Checker) hurry(e *entry, now instant, force bool) {
	if e.index < 0 {
		return // running, or held until others have run
	}
	e.due, e.force = now, force || e.force
	heap.Fix(&c.schedule.queue, e.index)
}

// wakeIdle brings checks forward that were put off while nobody used the group.
// Those that are overdue are spread over an interval.
func (c *Checker) wakeIdle(now instant) {
	s := &c.schedule
	for _, e := range s.entries {
		if !e.idle {
			continue
		}
		s.setIdle(e, false)
		due := e.started.add(c.cfg.Interval)
		if due < now {
			due = now.add(time.Duration(c.random() * float64(c.cfg.Interval)))
		}
		if e.index >= 0 && due < e.due {
			e.due = due
			heap.Fix(&s.queue, e.index)
			e.m.Upstream.setCheckDue(c.cfg.Identity, due)
		}
	}
}

// startDue starts the checks that are due, as far as there is room, and returns
// the time until the next one is.
func (c *Checker) startDue(ctx context.Context, now time.Time, checks *sync.WaitGroup) time.Duration {
	s, t := &c.schedule, instantOf(now)
	for len(s.queue) > 0 && s.running < c.cfg.Concurrency {
		e := s.queue[0]
		if e.due > t {
			return e.due.sub(t)
		}
		due, left, ok := e.m.Upstream.claimCheck(t, c, e.force)
		if !ok {
			e.due = due
			heap.Fix(&s.queue, e.index)
			if e.force {
				c.unchecked(e.m)
			}
			continue
		}
		heap.Pop(&s.queue)
		forced := e.force
		e.force, e.running = false, true
		e.started = t
		s.running++
		s.checked++
		if left != nil {
			left.e, e.again = e, forced
			c.finish(now, *left)
			c.poke() // the failure may be held
			continue
		}
		m := e.m // now: follow may change it while the check runs
		checks.Go(func() { c.check(ctx, e, m, now) })
	}
	return longWait
}

// finish takes the result of a check.
func (c *Checker) finish(now time.Time, r result) {
	s, e, t := &c.schedule, r.e, instantOf(now)
	s.running--
	e.running = false
	if e.gone {
		return
	}
	s.checked--
	switch {
	case r.err == nil:
		s.passedAt = t
		c.settle(now, e, r, Passed)
		c.settleHeld(now, Failed)
	case errors.Is(r.err, ErrUnauthorized):
		e.muteFor = t.add(c.cfg.Interval)
		c.settle(now, e, r, Unauthorized)
	case errors.Is(r.err, errImpossible):
		e.muteFor = t.add(c.cfg.Interval)
		c.settle(now, e, r, Inconclusive)
	case !c.targetOnly(r.err), s.passedAt >= instantOf(r.started):
		e.muteFor = t.add(c.cfg.Interval)
		c.settle(now, e, r, Failed)
	default:
		e.held = &r
		s.held = append(s.held, e)
	}
}

// resolve goes on with held failures: it waits for members that are being checked, or asks
// one that has not been, or finds that nobody is left to ask. Each is asked once.
func (c *Checker) resolve(now instant) {
	s := &c.schedule
	if len(s.held) == 0 || s.checked > 0 {
		return
	}
	if !s.asking {
		s.asking, s.witnesses = true, s.findWitnesses(now)
	}
	for len(s.witnesses) > 0 {
		last := len(s.witnesses) - 1
		e := s.witnesses[last]
		s.witnesses = s.witnesses[:last]
		if !e.gone && e.mayTell(now) {
			c.hurry(e, now, true)
			return
		}
	}
	c.settleHeld(now.time(), Inconclusive)
}

// findWitnesses returns the members that may tell whether a target is down. Those that are
// up themselves are the last.
func (s *schedule) findWitnesses(now instant) []*entry {
	var up, down []*entry
	for u, e := range s.entries {
		switch {
		case !e.mayTell(now):
		case u.Status().Active == Down:
			down = append(down, e)
		default:
			up = append(up, e)
		}
	}
	return append(down, up...)
}

// mayTell reports whether a member is worth asking: nothing is known of it that is of now.
func (e *entry) mayTell(now instant) bool {
	return e.held == nil && now >= e.muteFor && e.m.Upstream.Status().Admin != Maint
}

// settleHeld ends the wait of all held failures.
func (c *Checker) settleHeld(now time.Time, outcome CheckOutcome) {
	s := &c.schedule
	held := s.held
	s.held, s.asking, s.witnesses = nil, false, nil
	for _, e := range held {
		if e.held != nil {
			c.settle(now, e, *e.held, outcome)
		}
	}
}

// settle records an outcome, schedules the next check and tells the caller.
func (c *Checker) settle(now time.Time, e *entry, r result, outcome CheckOutcome) {
	s, t, u := &c.schedule, instantOf(now), e.m.Upstream
	if e.held != nil {
		e.held = nil
		e.muteFor = t.add(c.cfg.Interval)
	}
	if c.group.used.Swap(false) {
		s.traffic = t
	}
	outcome = c.weigh(e, &r, outcome)
	cr := CheckResult{
		Check: c.cfg.Identity, Outcome: outcome, Started: r.started, Took: r.took, Err: r.err,
		Own:        outcome == Failed && !c.targetOnly(r.err),
		ProvesAuth: c.cfg.ProvesAuth && r.err == nil,
	}
	transitions := u.ObserveCheck(now, &c.group.cfg.UpstreamConfig, c.cfg.Rise, c.cfg.Fall, cr)
	traffic := e.settled == 0 || s.traffic > e.settled
	e.settled = t
	plan := u.nextCheck(t, &c.cfg, c.random(), outcome, traffic)
	e.due = t.add(plan.wait)
	s.setIdle(e, plan.idle)
	if e.again {
		e.again, e.due, e.force = false, t, true
	}
	heap.Push(&s.queue, e)
	if slices.ContainsFunc(transitions, func(tr Transition) bool { return tr.Event() == EventUnhealthy }) {
		c.lookForOthers(t)
	}
	if c.cfg.OnResult != nil {
		c.cfg.OnResult(e.m, cr)
	}
	if c.cfg.OnTransition != nil {
		for _, tr := range transitions {
			c.cfg.OnTransition(e.m, tr)
		}
	}
}

// lookForOthers checks the members that are down at once, where nobody is in rotation any
// more: they are checked ever less often, and one may be well.
func (c *Checker) lookForOthers(now instant) {
	for _, e := range c.schedule.entries {
		if s := e.m.Upstream.Status(); s.InRotation() && !s.Spared {
			return
		}
	}
	for _, e := range c.schedule.entries {
		if e.m.Upstream.Status().Active == Down && now >= e.muteFor {
			c.hurry(e, now, true)
		}
	}
}

// weigh returns what the outcome of a check counts as. A target alone does not take the
// last member in rotation out, and where it says nothing, an upstream that was down since
// it could not be reached is back: it was reached. So is one that was down for whatever
// reason, while nobody else is in rotation: it may be well, and the others are not.
func (c *Checker) weigh(e *entry, r *result, outcome CheckOutcome) CheckOutcome {
	if errors.Is(r.err, errImpossible) {
		return outcome
	}
	u := e.m.Upstream
	last := c.targetOnly(r.err) && u.last()
	if outcome == Failed && last {
		outcome = Inconclusive
	}
	switch {
	case outcome == Passed:
		e.told = false
	case outcome == Inconclusive && (u.downByItself() || last && r.reached && u.Status().Active == Down):
		outcome = Passed
	case outcome == Inconclusive && last && !e.told && u.Status().InRotation():
		e.told = true
		if c.cfg.OnSpared != nil {
			c.cfg.OnSpared(e.m, r.err)
		}
	}
	return outcome
}

// queue is a heap of entries by due time.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].index, q[j].index = i, j }
func (q *queue) Push(x any)        { e := x.(*entry); e.index = len(*q); *q = append(*q, e) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}
