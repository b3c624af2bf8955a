package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelMember is an upstream in the simplest form that tells what may be picked.
type modelMember struct {
	m                   *Member
	admin               Admin
	active              Active
	run                 int // results of checks against the state
	out, auth           bool
	fails, refused, n   int
	left                int
	proven              bool          // something was reached, ever
	refusedFrom         time.Duration // since then, refused times
	until, closed, asks time.Duration // asks: may be ejected from then on
	probing             bool
	probedAt, probeEnd  time.Duration
	tokens              []modelProbe    // given out, not told yet
	last                Token           // given out
	oldest              int             // index of the first of them that may tell a result
	by                  Client          // whose the last one is
	beside              bool            // and another one of before may be under way
	leaving             map[Client]bool // have had a probe for nothing, or a trial
	connectFailed       bool
	failedSince         time.Duration
	checkFailed         bool
	spared              bool          // should be out, and may not
	patience, trial     time.Duration // before the next trial, and when that is
	answered, opened    time.Duration // when it succeeded last, and when its open period began
}

// modelProbe is a probe under way.
type modelProbe struct {
	token  Token
	client Client
}

// leavesTo reports whether a client leaves what is due at a time to others.
func (g *groupModel) leavesTo(m *modelMember, c Client, due time.Duration) bool {
	return m.leaving[c] && g.now < due+min(g.cfg.OpenFor, 5*time.Second)
}

// due is when the turn of the probe under way is over, or another one may go beside it.
func (m *modelMember) due() time.Duration {
	if m.mayHaveBeside() {
		return min(m.probedAt+2*time.Second, m.probeEnd)
	}
	return m.probeEnd
}

func (m *modelMember) mayHaveBeside() bool { return !m.beside && !m.auth }

func (m *modelMember) leaves(c Client) {
	if c != 0 {
		m.leaving[c] = true
	}
}

func (m *modelMember) inRotation() bool { return m.admin == Ready && m.active != Down && !m.out }

// groupModel is a group beside its model. Times are since t0.
type groupModel struct {
	g       *Group
	cfg     UpstreamConfig
	now     time.Duration
	members []*modelMember
	left    []*modelMember // no members now, but may come back
	next    int
}

func (g *groupModel) draw(t *rapid.T) *modelMember {
	return rapid.SampledFrom(g.members).Draw(t, "member")
}

func (g *groupModel) pass(t *rapid.T) {
	g.now += time.Duration(rapid.SampledFrom([]int{1, 500, 1000, 4000, 10_000, 70_000}).Draw(t, "ms")) * time.Millisecond
}

// passToProbe passes until something is due of a member that is out, or a client that leaves
// it to others need not any more.
func (g *groupModel) passToProbe(t *rapid.T) {
	m := g.draw(t)
	next := m.trial
	if m.probing {
		next = m.due()
	} else if m.out {
		next = m.until
	}
	if !m.probing && rapid.Bool().Draw(t, "anybody's") {
		next += min(g.cfg.OpenFor, 5*time.Second)
	}
	g.now = max(g.now, next-time.Duration(rapid.IntRange(0, 1).Draw(t, "before")))
}

// mayEject is the cap in its own words: count who is out afterwards.
func (g *groupModel) mayEject(m *modelMember) bool {
	ready, out, serving := 0, 0, 0
	for _, o := range g.members {
		if o.admin == Ready || o == m {
			ready++
			if o == m || (o.out && !o.auth) {
				out++
			}
			if o != m && o.inRotation() {
				serving++
			}
		}
	}
	return serving >= 1 && 1000*out <= int(1000*g.cfg.MaxEjected+0.5)*ready
}

func (g *groupModel) open(m *modelMember, longer bool) {
	if !m.out {
		m.n -= min(m.n, int((g.now-m.closed)/time.Minute))
	}
	if longer || m.n == 0 {
		m.n++
	}
	m.out, m.probing, m.fails, m.left, m.spared = true, false, 0, 0, false
	m.oldest, m.opened = len(m.tokens), g.now
	m.until = g.now + min(time.Duration(m.n)*g.cfg.OpenFor, g.cfg.MaxOpenFor)
	if time.Duration(m.n)*g.cfg.OpenFor > g.cfg.MaxOpenFor {
		m.n = int(g.cfg.MaxOpenFor/g.cfg.OpenFor) + 1
	}
}

func (g *groupModel) close(m *modelMember) {
	m.out, m.auth, m.probing, m.fails, m.refused, m.asks, m.closed = false, false, false, 0, 0, 0, g.now
	clear(m.leaving)
	m.oldest = len(m.tokens)
}

// observe tells the group and the model how a request ended, ordinary or probe.
func (g *groupModel) observe(t *rapid.T) {
	m := g.draw(t)
	kind := rapid.SampledFrom([]Kind{
		Success, Failure, Failure, ConnectFailure, ConnectFailure, AuthFault, AuthFault, Overload, SoftFail, Neutral, Cancelled,
	}).Draw(t, "kind")
	o := Observation{Kind: kind, Unsent: rapid.Bool().Draw(t, "unsent"), Overtaken: rapid.Bool().Draw(t, "overtaken")}
	o.Relayed = kind == Failure && rapid.Bool().Draw(t, "relayed")
	o.Reached = kind == Success && rapid.Bool().Draw(t, "reached")
	o.Client = drawClient(t)
	probe, awaited := false, false
	if len(m.tokens) > 0 && rapid.Bool().Draw(t, "with token") {
		i := rapid.IntRange(0, len(m.tokens)-1).Draw(t, "token")
		o.Probe, o.Client = m.tokens[i].token, m.tokens[i].client
		awaited = m.out && i >= m.oldest
		probe = awaited && (o.Probe == m.last || kind != SoftFail && kind != Neutral && kind != Cancelled)
		m.tokens = slices.Delete(m.tokens, i, i+1)
		if m.oldest > i {
			m.oldest--
		}
	}
	g.told(t, m, o, probe, awaited)
}

// told tells both. probe: it settles what a probe is to find out; awaited: something of it is
// of interest still.
func (g *groupModel) told(t *rapid.T, m *modelMember, o Observation, probe, awaited bool) {
	kind, before := o.Kind, m.visible()
	out := g.g.Observe(at(g.now), m.m, o)
	g.apply(m, o, probe)
	certain := kind == ConnectFailure || kind == AuthFault || kind == Failure && !o.Relayed
	brief := !m.probing && !m.auth && kind != AuthFault && o.Probe == m.last && min(g.now-m.probedAt, ProbeLimit) < 100*time.Millisecond && m.until-g.now < 100*time.Millisecond
	if awaited && m.out && !certain && !brief {
		m.leaves(o.Client)
	}
	if got := len(out.Transitions) == 1; got != (m.visible() != before) || len(out.Transitions) > 1 {
		t.Fatalf("kind %d: transitions %+v, model %v → %v", kind, out.Transitions, before, m.visible())
	}
}

// visible is what edges are edges of.
func (m *modelMember) visible() string { return fmt.Sprint(m.admin, m.active, m.out, m.auth) }

func (g *groupModel) apply(m *modelMember, o Observation, probe bool) {
	kind := o.Kind
	if kind == ConnectFailure {
		if !m.connectFailed || g.now >= m.failedSince+g.cfg.OpenFor {
			m.failedSince = g.now
		}
		m.connectFailed = true
	} else if kind != Neutral && kind != Cancelled {
		m.connectFailed = false
	}
	if m.spared && (kind == Success || kind == Overload) {
		m.spared = false
		clear(m.leaving)
	}
	if kind == Success {
		m.answered = g.now
		m.proven = m.proven || o.Reached
	}
	switch {
	case probe:
		g.applyProbe(m, o)
	case kind == Success && !m.auth:
		m.fails = 0
		if o.Reached {
			m.refused = 0
		}
	case (kind == Failure || kind == ConnectFailure) && !m.out:
		if m.fails++; m.fails >= g.cfg.ConsecutiveFailures && g.now >= m.asks {
			if g.mayEject(m) {
				g.open(m, true)
			} else {
				m.asks = g.now + time.Second
				if !m.spared {
					m.spared, m.patience, m.trial = true, g.cfg.OpenFor, g.now+g.cfg.OpenFor
				}
			}
		}
	case kind == AuthFault && !m.auth:
		g.refuse(m)
	}
}

func (g *groupModel) applyProbe(m *modelMember, o Observation) {
	switch kind := o.Kind; kind {
	case Success:
		switch refused := m.refused; {
		case o.Reached:
			g.close(m)
		case m.auth:
			g.openAgain(m, g.now)
			m.until = g.now // it need not have looked at the credentials
		default:
			g.close(m)
			m.refused = refused
		}
	case Overload:
		if m.auth {
			g.openAgain(m, g.now)
			m.until = max(m.until, g.now+time.Second)
		} else {
			refused := m.refused
			g.close(m)
			m.refused = refused
		}
	case Failure, ConnectFailure:
		oldest := m.oldest
		g.open(m, slices.ContainsFunc(g.members, func(o *modelMember) bool { return o.answered >= m.opened }))
		if o.Relayed && m.beside {
			m.oldest = oldest
		}
	case AuthFault:
		if m.auth {
			g.open(m, true)
		} else if !g.refuse(m) {
			g.open(m, false)
		}
	case SoftFail:
		g.openAgain(m, g.now)
	default:
		if m.probing {
			waited, left := min(g.now-m.probedAt, ProbeLimit), m.left+1
			g.openAgain(m, g.now)
			if kind == Neutral && o.Unsent {
				m.until = g.now
			} else if kind == Cancelled && !o.Overtaken && !m.auth {
				m.until = g.now + max(waited, min(time.Duration(left)*waited, g.cfg.OpenFor))
				m.left = left
			}
		} else {
			m.oldest = len(m.tokens)
		}
	}
}

// openAgain is the end of a probe without a result. Another one beside it may still have
// one.
func (g *groupModel) openAgain(m *modelMember, now time.Duration) {
	late, oldest := g.now, m.oldest
	g.now = now
	g.open(m, false)
	g.now = late
	m.until = max(m.until, now+min(now-m.probedAt, ProbeLimit))
	if m.beside {
		m.oldest = oldest
	}
}

func (g *groupModel) refuse(m *modelMember) bool {
	if m.refused++; m.refused == 1 {
		m.refusedFrom = g.now
	}
	if m.refused < 3 || m.proven && g.now < m.refusedFrom+time.Second {
		return false
	}
	m.auth = true
	g.open(m, true)
	return true
}

func (g *groupModel) check(t *rapid.T) {
	m := g.draw(t)
	pass := rapid.Bool().Draw(t, "pass")
	r := CheckResult{Outcome: Failed, Started: at(g.now)}
	if pass {
		r.Outcome = Passed
	}
	m.m.Upstream.ObserveCheck(at(g.now), &g.cfg, 2, 3, r)
	m.checkFailed = !pass
	want := map[bool]Active{true: Up, false: Down}[pass]
	switch need := map[bool]int{true: 2, false: 3}[pass]; {
	case m.active == want:
		m.run = 0
	case m.active == Unknown || m.run+1 >= need:
		m.active, m.run = want, 0
	default:
		m.run++
	}
}

func (g *groupModel) administer(t *rapid.T) {
	m := g.draw(t)
	m.admin = rapid.SampledFrom([]Admin{Ready, Ready, Drain, Maint}).Draw(t, "admin")
	m.m.Upstream.SetAdmin(m.admin)
}

func drawClient(t *rapid.T) Client { return Client(rapid.IntRange(0, 3).Draw(t, "client")) }

// probe: the first member whose time has come, in use, and with no probe under way
// whose time is not over, or beside which this client's may go.
func (g *groupModel) probe(t *rapid.T) {
	try, limit, late := g.g.TryProbe, ProbeLimit, time.Duration(0)
	if rapid.Bool().Draw(t, "overdue") {
		try, limit, late = g.g.TryOverdueProbe, g.cfg.OpenFor, g.cfg.OpenFor
	}
	client := drawClient(t)
	m := g.nextProbe(late, client)
	got, tok, ok := try(at(g.now), client, nil)
	if ok != (m != nil) || ok && got != m.m {
		t.Fatalf("probe %v of %v, want %v", ok, got, m)
	}
	switch {
	case !ok:
	case m.spared:
		m.patience = min(m.patience+g.cfg.OpenFor, g.cfg.MaxOpenFor)
		m.trial = g.now + m.patience
		m.leaves(client)
	default:
		m.beside = m.probing
		m.probing, m.probedAt, m.probeEnd, m.last, m.by = true, g.now, g.now+limit, tok, client
		m.tokens = append(m.tokens, modelProbe{tok, client})
	}
}

// nextProbe is the member to probe. On the way to it, turns whose time is over end.
func (g *groupModel) nextProbe(late time.Duration, client Client) *modelMember {
	serving, some := g.serving()
	members := slices.Clone(g.members)
	slices.SortStableFunc(members, func(a, b *modelMember) int { return a.m.Priority - b.m.Priority })
	for _, m := range members {
		switch {
		case m.spared:
			if m.inRotation() && g.now-late >= m.trial && !g.leavesTo(m, client, m.trial) && !g.last(m) && (!some || m.m.Priority <= serving) {
				return m
			}
		case !m.probeable(serving, some):
		case m.probing && g.now-late >= m.due() && g.now >= m.probeEnd:
			oldest := m.oldest
			g.openAgain(m, m.probeEnd)
			m.oldest = oldest
			m.leaves(m.by)
			if g.now >= m.until && !g.leavesTo(m, client, m.until) {
				return m
			}
		case m.probing && g.now-late >= m.due() && m.mayHaveBeside() && client != m.by && !m.leaving[client]:
			return m
		case !m.probing && g.now-late >= m.until && !g.leavesTo(m, client, m.until):
			return m
		}
	}
	return nil
}

func (m *modelMember) probeable(serving int, some bool) bool {
	return m.out && m.admin == Ready && m.active != Down && (!some || m.m.Priority <= serving)
}

// last reports whether a member is spared and there is nobody better.
func (g *groupModel) last(m *modelMember) bool {
	return m.spared && !slices.ContainsFunc(g.pickable(), func(o *modelMember) bool { return !g.isLastResort(o) })
}

// isLastResort reports whether a member is among those that come after all others: it
// is spared, or panic let it in though its connects or checks fail as well.
func (g *groupModel) isLastResort(m *modelMember) bool {
	recent := (m.out && !m.auth) || g.now < m.failedSince+g.cfg.OpenFor
	failing := m.checkFailed || m.connectFailed && recent
	if !g.panics() {
		return m.spared || g.nobody()
	}
	return m.spared || failing && slices.ContainsFunc(g.members, func(o *modelMember) bool { return o.spared && o.inRotation() })
}

// nobody reports whether no member in rotation is better than those that are ejected.
func (g *groupModel) nobody() bool {
	return !slices.ContainsFunc(g.members, func(m *modelMember) bool { return m.inRotation() && !m.spared })
}

// serving is the priority of the first tier that has a member in rotation among
// those that may be picked, and are not the last resort.
func (g *groupModel) serving() (priority int, ok bool) {
	for _, m := range g.pickable() {
		if m.inRotation() && !g.isLastResort(m) && (!ok || m.m.Priority < priority) {
			priority, ok = m.m.Priority, true
		}
	}
	return priority, ok
}

func (g *groupModel) panics() bool {
	ready, serving := 0, 0
	for _, m := range g.members {
		if m.admin == Ready {
			ready++
		}
		if m.inRotation() {
			serving++
		}
	}
	return 100*serving < int(100*g.cfg.PanicBelow+0.5)*ready
}

// pickable is who may be picked.
func (g *groupModel) pickable() (all []*modelMember) {
	var good, spared []*modelMember
	for _, m := range g.members {
		ejected := m.out && !m.auth
		if m.admin != Ready || m.active == Down || m.auth || (ejected && !g.panics() && !g.nobody()) {
			continue
		}
		all = append(all, m)
		if m.spared {
			spared = append(spared, m)
			continue
		}
		recent := ejected || g.now < m.failedSince+g.cfg.OpenFor
		if !m.checkFailed && !(m.connectFailed && recent) {
			good = append(good, m)
		}
	}
	if g.panics() && len(good) > 0 {
		return append(good, spared...)
	}
	return all
}

func (g *groupModel) replace(t *rapid.T) {
	if len(g.left) > 0 && rapid.Bool().Draw(t, "comes back") {
		g.members = append(g.members, g.left[0])
		g.left = g.left[1:]
	} else if len(g.members) > 1 && rapid.Bool().Draw(t, "goes") {
		i := rapid.IntRange(0, len(g.members)-1).Draw(t, "who")
		g.left = append(g.left, g.members[i])
		g.members = slices.Delete(g.members, i, i+1)
	} else {
		g.add(rapid.IntRange(0, 1).Draw(t, "priority"))
	}
	g.tell(t)
}

func (g *groupModel) add(priority int) {
	m := &Member{Upstream: new(Upstream), Priority: priority, Value: g.next}
	g.members = append(g.members, &modelMember{m: m, failedSince: -time.Hour, answered: -time.Hour, leaving: make(map[Client]bool)})
	g.next++
}

func (g *groupModel) tell(t *rapid.T) {
	var members []*Member
	for _, m := range g.members {
		members = append(members, m.m)
	}
	if err := g.g.SetMembers(members); err != nil {
		t.Fatal(err)
	}
}

func (g *groupModel) agree(t *rapid.T) {
	s := g.g.Available(at(g.now))
	got := make(map[*Member]bool)
	rank := func(tier Tier) int {
		switch {
		case tier.LastResort:
			return 2
		case tier.Panic:
			return 1
		}
		return 0
	}
	resort := make(map[*Member]bool)
	for i, tier := range s.Tiers {
		if len(tier.Members) == 0 || (i > 0 && rank(tier) == rank(s.Tiers[i-1]) && tier.Priority <= s.Tiers[i-1].Priority) ||
			(i > 0 && rank(s.Tiers[i-1]) > rank(tier)) {
			t.Fatalf("order of tiers: %s", picks(s))
		}
		for _, m := range tier.Members {
			got[m] = m.Priority == tier.Priority
			resort[m] = tier.LastResort
		}
	}
	want := g.pickable()
	for _, m := range want {
		if !got[m.m] {
			t.Fatalf("%v cannot be picked: %s", m.m.Value, picks(s))
		}
		if resort[m.m] != g.isLastResort(m) {
			t.Fatalf("%v: last resort %v", m.m.Value, resort[m.m])
		}
	}
	if len(got) != len(want) || s.Panic != g.panics() {
		t.Fatalf("%s, want %d members, panic %v", picks(s), len(want), g.panics())
	}
	for _, m := range g.members {
		circuit := Closed
		switch {
		case m.probing:
			circuit = HalfOpen
		case m.out:
			circuit = Open
		}
		wantStatus := Status{m.admin, m.active, circuit, m.auth, m.connectFailed, m.checkFailed, m.spared}
		if got := m.m.Upstream.Status(); got != wantStatus {
			t.Fatalf("member %v: %+v, want %+v", m.m.Value, got, wantStatus)
		}
	}
}

// TestGroupModel: circuits, ejection, panic and probes against the model. Members
// never exceed the cap by an ejection, the last one stays, panic picks nobody that
// does not connect while another is up, and there is one probe at a time, or two of different
// clients; a client whose probe has told nothing leaves the next one to others for a while.
func TestGroupModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := exactConfig()
		cfg.MinSuccessRate = 0
		cfg.ConsecutiveFailures = rapid.IntRange(1, 3).Draw(t, "failures")
		cfg.MaxEjected = rapid.SampledFrom([]float64{0, 0.2, 0.5, 0.75, 1}).Draw(t, "max ejected")
		cfg.PanicBelow = rapid.SampledFrom([]float64{0, 0.25, 0.5, 1}).Draw(t, "panic below")
		cfg.MaxOpenFor = 45 * time.Second
		g := &groupModel{g: NewGroup(GroupConfig{UpstreamConfig: cfg}), cfg: cfg}
		for range rapid.IntRange(1, 5).Draw(t, "members") {
			g.add(rapid.IntRange(0, 1).Draw(t, "priority"))
		}
		g.tell(t)
		if rapid.Bool().Draw(t, "one fails at first") {
			for range cfg.ConsecutiveFailures {
				g.told(t, g.members[0], Observation{Kind: Failure}, false, false)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass":            g.pass,
			"pass to a probe": g.passToProbe, "pass to another probe": g.passToProbe,
			"observe": g.observe, "observe more": g.observe, "observe still more": g.observe,
			"check":      g.check,
			"administer": g.administer,
			"probe":      g.probe, "probe again": g.probe, "probe once more": g.probe,
			"replace": g.replace,
			"":        g.agree,
		})
	})
}
