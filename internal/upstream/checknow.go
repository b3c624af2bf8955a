package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/timing"
)

// This file contains checks that are asked for: by the verdict, which does not wait for the
// result, and by an operator, who does.

// Checked is the result of a check that was asked for.
type Checked struct {
	Type    string // what was asked
	Outcome health.CheckOutcome
	Err     error // why it did not pass
	Started time.Time
	Took    time.Duration
	Times   [timing.Parts]time.Duration // of the last target; 0 for what is not known

	Handler string // whose check it was

	// Member is whom it was about, as it is now.
	Member struct{ Group, Name, State string }

	// Counts: it counts as those that are scheduled do. Otherwise Why says why not.
	Counts bool
	Why    string
}

// ErrChecking refuses to check a member of which somebody else waits for a check.
var ErrChecking = errors.New("a check of this upstream is under way")

// ErrLeft is that the member has gone from the group before there was a result.
var ErrLeft = errors.New("the upstream has left the group meanwhile")

// ErrUnchecked is that there was no result in time.
var ErrUnchecked = errors.New("no result of the check in time")

const (
	// plainTimeout is that of a check where none is configured.
	plainTimeout = 3 * time.Second
	// heldTime is what a result may wait for others in, beside the time of the check.
	heldTime = 5 * time.Second
	// maxCheckTime bounds a check that somebody waits for.
	maxCheckTime = time.Minute
)

// awaited is who waits for the result of a check that began after a moment.
type awaited struct {
	since  time.Time
	by     *health.Checker // that was asked
	result chan answer     // of one
}

// answer is the result of a check, and the group that has made it; nil: there will be none.
type answer struct {
	by *Group
	health.CheckResult
}

// answer hands a result to who waits for it.
func (h *Health) answer(by *Group, r health.CheckResult) {
	if w := h.waits.Load(); w != nil && !r.Started.Before(w.since) && h.waits.CompareAndSwap(w, nil) {
		w.result <- answer{by, r}
	}
}

// unanswered tells who waits for a result of a Checker that there will be none.
func (h *Health) unanswered(by *health.Checker) {
	if w := h.waits.Load(); w != nil && w.by == by && h.waits.CompareAndSwap(w, nil) {
		w.result <- answer{}
	}
}

// checkNow has a member checked at once, if there are checks.
func (g *Group) checkNow(m *Member) {
	if own := g.ownChecker(); own != nil {
		own.CheckNow(&m.ref)
	}
}

// ownChecker is what makes the checks of the group; nil where there are none.
func (g *Group) ownChecker() *health.Checker {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.checker
}

// Check has the member checked at once and waits for the result, one at a time for each
// upstream. It counts as any other check: where others check it in another way, theirs is made
// if that is the one that counts. Where there are no checks, or shall be none, the
// upstream is checked all the same and that counts for nothing. Where the context ends, it
// is not waited for any longer.
func (g *Group) Check(ctx context.Context, m *Member) (*Checked, error) {
	c, err := g.checkOnce(ctx, m)
	if err != nil {
		return nil, err
	}
	r := m.report(time.Now())
	c.Handler = cmp.Or(c.Handler, g.cfg.Handler)
	c.Member.Group, c.Member.Name, c.Member.State = g.Name, m.Name, r.State()
	return c, nil
}

func (g *Group) checkOnce(ctx context.Context, m *Member) (*Checked, error) {
	if m.Health.asked.Swap(true) {
		return nil, ErrChecking
	}
	defer m.Health.asked.Store(false)
	ctx, cancel := context.WithTimeout(ctx, g.checkTime())
	defer cancel()
	for {
		switch {
		case g.cfg.Checks == nil:
			return m.checkPlain(ctx), nil
		case m.Health.Status().Admin == health.Maint:
			return m.checkUncounted(ctx, "it is in maint: it is not checked"), nil
		}
		checker := m.Health.Checker(g.ownChecker())
		if checker == nil {
			return m.checkUncounted(ctx, "its checks have not begun"), nil
		}
		r, err := g.await(ctx, m, checker)
		switch {
		case err != nil:
			return nil, err
		case r.by != nil:
			return &Checked{
				Type: r.by.cfg.Checks.Type, Outcome: r.Outcome, Err: r.Err, Started: r.Started, Took: r.Took,
				Times: m.Health.times(), Counts: true, Handler: r.by.cfg.Handler,
			}, nil
		}
		if !g.has(m) {
			return nil, ErrLeft
		}
		// What is asked, or by whom, has changed since it was looked at.
	}
}

// has reports whether the upstream of a member, which may have other settings by now, is in
// the group.
func (g *Group) has(m *Member) bool {
	return slices.ContainsFunc(g.Members(), func(now *Member) bool { return now.Health == m.Health })
}

// await has a member checked, and waits for the answer.
func (g *Group) await(ctx context.Context, m *Member, by *health.Checker) (answer, error) {
	w := &awaited{time.Now(), by, make(chan answer, 1)}
	m.Health.waits.Store(w)
	defer m.Health.waits.CompareAndSwap(w, nil)
	by.CheckNow(&m.ref)
	select {
	case r := <-w.result:
		return r, nil
	case <-g.stop:
		return answer{}, fmt.Errorf("%w: the configuration has changed", ErrUnchecked)
	case <-by.Done():
		return answer{}, nil // that of another configuration, or group
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%w: %w", ErrUnchecked, context.Cause(ctx))
	}
}

// checkTime is how long a check may be waited for: for that which may be under way, then
// for this one, and for the others that a failure is compared with.
func (g *Group) checkTime() time.Duration {
	if g.cfg.Checks == nil {
		return plainTimeout
	}
	each := g.cfg.Checks.Timeout * time.Duration(max(len(g.cfg.Checks.Targets), 1)+1)
	return min(2*each+heldTime, maxCheckTime)
}

// times are those of the last check.
func (h *Health) times() (t [timing.Parts]time.Duration) {
	if last := h.timings.Load(); last != nil {
		t = *last
	}
	return t
}

// checkPlain is the check of an upstream for which none is configured: whether it can be
// connected to, with TLS where that is spoken.
func (m *Member) checkPlain(ctx context.Context) *Checked {
	ctx, clock := timing.With(ctx)
	c := &Checked{Type: CheckTCP, Started: time.Now(), Why: "no health_check is configured"}
	if m.Spec.Addr.Scheme == HTTPS {
		c.Type = CheckTLS
	}
	c.end(m.Group.checkSelf(ctx, &m.ref))
	c.Times = clock.Times()
	return c
}

// checkUncounted makes the check that is configured, and counts nothing.
func (m *Member) checkUncounted(ctx context.Context, why string) *Checked {
	cfg := m.Group.checkerConfig()
	c := &Checked{Type: m.Group.cfg.Checks.Type, Started: time.Now(), Why: why}
	c.end(cfg.Try(ctx, &m.ref))
	c.Times = m.Health.times()
	return c
}

func (c *Checked) end(err error) {
	c.Took, c.Err = time.Since(c.Started), err
	switch {
	case errors.Is(err, health.ErrUnauthorized):
		c.Outcome = health.Unauthorized
	case err != nil:
		c.Outcome = health.Failed
	}
}
