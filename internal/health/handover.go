package health

import (
	"context"
	"slices"
	"time"
)

// This file contains how checks go over from one Checker of an upstream to the next, which
// a reload has started: results stay with the check that they are of.

// goingOn is a check that goes on without its Checker.
type goingOn struct{ cut context.CancelFunc }

// takeUpChecks makes the checks of the upstream those of a Checker. Results of another
// check do not count any more: the state stays until the first one of this, which is due at
// once and decides. With another interval, the next is due within that.
func (u *Upstream) takeUpChecks(now instant, c *Checker) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.takeUp(now, c)
}

// takeUp is called with mu held.
func (u *Upstream) takeUp(now instant, c *Checker) {
	k := &u.checks
	switch {
	case k.id != c.cfg.Identity:
		k.cut()
		*k = checks{id: c.cfg.Identity, activity: k.activity.afresh(), failed: k.failed, own: k.own, at: k.at, outcome: k.outcome, err: k.err}
	case k.interval != c.cfg.Interval:
		k.backoff, k.due = 0, min(k.due, now.add(c.cfg.Interval))
	}
	k.interval = c.cfg.Interval
	if !slices.Contains(k.by, c) {
		k.by = append(k.by, c)
	}
}

// letGoOfChecks is called when a Checker has nothing more to do with the upstream.
func (u *Upstream) letGoOfChecks(c *Checker, m *Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := &u.checks
	if i := slices.Index(k.by, c); i >= 0 {
		k.by = slices.Delete(k.by, i, i+1)
	}
	if len(k.by) == 0 && !c.hasHeir(m) {
		k.cut()
	}
}

func (c *Checker) hasHeir(m *Member) bool { return c.cfg.Heir != nil && c.cfg.Heir(m) }

// goOn reports whether a check may go on without its Checker, since there is another one
// that makes the same. It is cut when there is no such Checker any more.
func (u *Upstream) goOn(c *Checker, m *Member, g *goingOn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := &u.checks
	if !slices.Contains(k.by, c) || len(k.by) == 1 && !c.hasHeir(m) {
		return false
	}
	k.cut()
	k.goesOn = g
	return true
}

// cut ends a check that goes on without its Checker.
func (k *checks) cut() {
	if k.goesOn != nil {
		k.goesOn.cut()
	}
	k.goesOn, k.left = nil, nil
}

// leave lets a check go on that its Checker has no time to wait for. The next Checker takes
// its result.
func (c *Checker) leave(ctx context.Context, g *goingOn, u *Upstream, ended <-chan result) {
	limit := time.AfterFunc(2*c.cfg.longest(), g.cut) // for what takes none of its time
	go func() {
		defer g.cut()
		r := <-ended
		limit.Stop()
		if ctx.Err() != nil {
			u.leaveResult(g, nil)
			return
		}
		u.leaveResult(g, &r)
	}()
}

// hand leaves a result that has not been counted to the next Checker, if there is one.
func (c *Checker) hand(m *Member, r result) {
	if g := (&goingOn{func() {}}); m.Upstream.goOn(c, m, g) {
		m.Upstream.leaveResult(g, &r)
	}
}

// leaveResult keeps a result for the next Checker, and tells it. Without one, that may make
// a check of its own.
func (u *Upstream) leaveResult(g *goingOn, r *result) {
	u.mu.Lock()
	var by []*Checker
	if u.checks.goesOn == g {
		u.checks.goesOn, u.checks.left = nil, r
		by = slices.Clone(u.checks.by)
	}
	u.mu.Unlock()
	for _, c := range by {
		c.ask(u, nil)
	}
}

// takeLeft returns the result that was left, unless there is a newer one; nil for none.
// Called with mu held.
func (k *checks) takeLeft() *result {
	r := k.left
	if r == nil {
		return nil
	}
	k.left = nil
	if instantOf(r.started) <= k.at {
		return nil
	}
	return r
}

// longest is how long a check may take, but for what is no matter of the upstream's.
func (c *CheckerConfig) longest() time.Duration {
	steps := max(len(c.Targets), 1)
	if c.CheckSelf != nil {
		steps++
	}
	return c.Timeout * time.Duration(steps)
}
