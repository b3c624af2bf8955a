package health

import (
	"math"
	"testing"
	"time"
)

// exactConfig is the defaults without jitter.
func exactConfig() UpstreamConfig {
	c := DefaultUpstreamConfig()
	c.Jitter = 0
	return c
}

func observe(u *Upstream, d time.Duration, o Observation) Transition {
	cfg := exactConfig()
	tr, _ := u.Observe(at(d), &cfg, o)
	return tr
}

func repeat(u *Upstream, d time.Duration, n int, o Observation) (tr Transition) {
	for range n {
		tr = observe(u, d, o)
	}
	return tr
}

func tryProbe(u *Upstream, d time.Duration) (Token, bool) {
	cfg := exactConfig()
	return u.TryProbe(at(d), &cfg, ProbeLimit, 0)
}

func probeAt(t *testing.T, u *Upstream, d time.Duration) Token {
	t.Helper()
	tok, ok := tryProbe(u, d)
	if !ok {
		t.Fatalf("no probe at %s: %+v", d, u.Status())
	}
	return tok
}

// The states that the table of observations starts from.
const (
	healthy  = "closed"
	pending  = "closed, 4 failures"
	refused  = "closed, 2 refusals"
	opened   = "open until 10s"
	probing  = "half-open since 10s"
	faulty   = "auth fault until 10s"
	proving  = "auth fault, half-open since 10s"
	overload = "overloaded"
)

func upstreamAt(t *testing.T, state string) (u *Upstream, tok Token) {
	t.Helper()
	u = new(Upstream)
	switch state {
	case pending:
		repeat(u, 0, 4, Observation{Kind: Failure})
	case refused:
		repeat(u, 0, 2, Observation{Kind: AuthFault})
	case opened, probing:
		if tr := repeat(u, 0, 5, Observation{Kind: Failure}); tr.Event() != EventCircuitOpen || tr.Reason != ReasonFailures {
			t.Fatalf("five failures: %+v", tr)
		}
	case faulty, proving:
		if tr := repeat(u, 0, 3, Observation{Kind: AuthFault}); tr.Event() != EventAuthFailed || tr.Reason != ReasonAuth {
			t.Fatalf("three refusals: %+v", tr)
		}
	}
	if state == probing || state == proving {
		tok = probeAt(t, u, 10*sec)
	}
	return u, tok
}

// TestObservations has every kind of observation in every state, of ordinary
// requests and of probes.
func TestObservations(t *testing.T) {
	none := EventNone
	for _, tc := range []struct {
		from    string
		kind    Kind
		probe   bool
		circuit State
		auth    bool
		event   Event
		until   time.Duration // of an open circuit
	}{
		{healthy, Success, false, Closed, false, none, 0},
		{healthy, Failure, false, Closed, false, none, 0},
		{healthy, ConnectFailure, false, Closed, false, none, 0},
		{healthy, AuthFault, false, Closed, false, none, 0},
		{healthy, Overload, false, Closed, false, none, 0},
		{healthy, SoftFail, false, Closed, false, none, 0},
		{healthy, ReplyTimeout, false, Closed, false, none, 0},
		{healthy, Neutral, false, Closed, false, none, 0},
		{healthy, Cancelled, false, Closed, false, none, 0},

		{pending, Success, false, Closed, false, none, 0},
		{pending, Failure, false, Open, false, EventCircuitOpen, 20 * sec},
		{pending, ConnectFailure, false, Open, false, EventCircuitOpen, 20 * sec},
		{pending, AuthFault, false, Closed, false, none, 0},
		{pending, Overload, false, Closed, false, none, 0},
		{pending, SoftFail, false, Closed, false, none, 0},
		{pending, ReplyTimeout, false, Closed, false, none, 0},
		{pending, Neutral, false, Closed, false, none, 0},
		{pending, Cancelled, false, Closed, false, none, 0},

		{refused, Success, false, Closed, false, none, 0},
		{refused, Failure, false, Closed, false, none, 0},
		{refused, AuthFault, false, Open, true, EventAuthFailed, 20 * sec},

		// Late results of requests that began before it opened, or of panic.
		{opened, Success, false, Open, false, none, 10 * sec},
		{opened, Failure, false, Open, false, none, 10 * sec},
		{opened, ConnectFailure, false, Open, false, none, 10 * sec},
		{opened, AuthFault, false, Open, false, none, 10 * sec},
		{opened, Overload, false, Open, false, none, 10 * sec},
		{opened, SoftFail, false, Open, false, none, 10 * sec},
		{opened, ReplyTimeout, false, Open, false, none, 10 * sec},
		{opened, Neutral, false, Open, false, none, 10 * sec},
		{opened, Cancelled, false, Open, false, none, 10 * sec},

		{probing, Success, true, Closed, false, EventCircuitClosed, 0},
		{probing, Failure, true, Open, false, none, 30 * sec}, // n = 2
		{probing, ConnectFailure, true, Open, false, none, 30 * sec},
		{probing, AuthFault, true, Open, false, none, 20 * sec}, // n stays 1
		{probing, Overload, true, Closed, false, EventCircuitClosed, 0},
		{probing, SoftFail, true, Open, false, none, 20 * sec},
		{probing, ReplyTimeout, true, Open, false, none, 20 * sec},
		{probing, Neutral, true, Open, false, none, 20 * sec},   // no result, no growth
		{probing, Cancelled, true, Open, false, none, 10 * sec}, // for as long as it has waited: not at all
		{probing, Success, false, HalfOpen, false, none, 0},
		{probing, Failure, false, HalfOpen, false, none, 0},
		{probing, AuthFault, false, HalfOpen, false, none, 0},
		{probing, SoftFail, false, HalfOpen, false, none, 0},
		{probing, Cancelled, false, HalfOpen, false, none, 0},

		{faulty, Success, false, Open, true, none, 10 * sec},
		{faulty, Failure, false, Open, true, none, 10 * sec},
		{faulty, AuthFault, false, Open, true, none, 10 * sec},
		{faulty, Cancelled, false, Open, true, none, 10 * sec},
		{proving, Success, true, Closed, false, EventCircuitClosed, 0},
		{proving, AuthFault, true, Open, true, none, 30 * sec},
		{proving, Failure, true, Open, true, none, 30 * sec},
		{proving, SoftFail, true, Open, true, none, 20 * sec},
		{proving, Cancelled, true, Open, true, none, 20 * sec},
		{proving, Overload, true, Open, true, none, 20 * sec}, // the credentials were not looked at, perhaps
		{proving, AuthFault, false, HalfOpen, true, none, 0},
	} {
		u, tok := upstreamAt(t, tc.from)
		now := 10 * sec
		o := Observation{Kind: tc.kind, Destination: 7, Started: at(now), Reached: tc.kind == Success}
		if tc.probe {
			o.Probe = tok
		}
		if tc.kind == AuthFault {
			o.Destination = 0 // as those before
		}
		tr := observe(u, now, o)
		s := u.Status()
		if s.Circuit != tc.circuit || s.AuthFault != tc.auth || tr.Event() != tc.event || tr.Changed() != (tc.event != none) {
			t.Errorf("%s, kind %d, probe %v: %s (auth fault %v), event %q; want %s (%v), %q",
				tc.from, tc.kind, tc.probe, s.Circuit, s.AuthFault, tr.Event(), tc.circuit, tc.auth, tc.event)
		}
		if tc.circuit == Open && u.breaker.until != instantAt(tc.until) {
			t.Errorf("%s, kind %d, probe %v: open until %s, want %s",
				tc.from, tc.kind, tc.probe, u.breaker.until.sub(instantAt(0)), tc.until)
		}
	}
}

// TestSuccessForgives: what is pending is forgiven by one success, and by nothing
// that says less.
func TestSuccessForgives(t *testing.T) {
	for kind, opens := range map[Kind]bool{
		Success: false, Overload: true, SoftFail: true, ReplyTimeout: true, Neutral: true, Cancelled: true, AuthFault: true,
	} {
		u, _ := upstreamAt(t, pending)
		observe(u, 0, Observation{Kind: kind})
		if tr := observe(u, 0, Observation{Kind: Failure}); tr.Changed() != opens {
			t.Errorf("4 failures, kind %d, 1 failure: opens %v", kind, tr.Changed())
		}
	}
	u, _ := upstreamAt(t, refused)
	observe(u, 0, Observation{Kind: Success, Reached: true})
	if tr := observe(u, 0, Observation{Kind: AuthFault}); tr.Changed() {
		t.Error("407 twice, a success, 407: auth fault")
	}
}

func TestSlowStart(t *testing.T) {
	cfg := exactConfig()
	u, tok := upstreamAt(t, probing)
	if f := u.Factor(at(10*sec), &cfg); f != 1 {
		t.Errorf("before it comes back: %v", f)
	}
	observe(u, 10*sec, Observation{Kind: Success, Probe: tok})
	for d, want := range map[time.Duration]float64{10 * sec: 0.1, 25 * sec: 0.55, 40 * sec: 1} {
		if f := u.Factor(at(d), &cfg); math.Abs(f-want) > 1e-9 {
			t.Errorf("at %s: %v, want %v", d, f, want)
		}
	}
	// Only after a failure: not at first, nor when the operator brings it back.
	v := new(Upstream)
	v.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Passed})
	v.SetAdmin(Maint)
	v.SetAdmin(Ready)
	if f := v.Factor(at(0), &cfg); f != 1 {
		t.Errorf("without failure: %v", f)
	}
	for range 3 {
		v.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Failed})
	}
	for range 2 {
		v.ObserveCheck(at(sec), &cfg, 2, 3, CheckResult{Outcome: Passed})
	}
	if f := v.Factor(at(sec), &cfg); f != 0.1 {
		t.Errorf("after it was down: %v", f)
	}
}

func TestOverload(t *testing.T) {
	cfg := exactConfig()
	u := new(Upstream)
	observe(u, 0, Observation{Kind: Overload, RetryAfter: 20 * sec})
	observe(u, 0, Observation{Kind: Overload}) // shorter: does not end it earlier
	for d, want := range map[time.Duration]float64{0: 0.1, 20 * sec: 0.1, 35 * sec: 0.55, 50 * sec: 1} {
		if f := u.Factor(at(d), &cfg); math.Abs(f-want) > 1e-9 {
			t.Errorf("at %s: %v, want %v", d, f, want)
		}
	}
	if !u.Available() {
		t.Error("overload takes it out")
	}
	v := new(Upstream)
	observe(v, 0, Observation{Kind: Overload, RetryAfter: math.MaxInt64})
	if f := v.Factor(at(331*sec), &cfg); f != 1 {
		t.Errorf("an absurd Retry-After lasts longer than max_open_for: %v", f)
	}
}

func TestConnectFailed(t *testing.T) {
	for kind, failed := range map[Kind]bool{
		Success: false, Failure: false, AuthFault: false, Overload: false, SoftFail: false, ReplyTimeout: false,
		ConnectFailure: true, Neutral: true, Cancelled: true, // these say nothing about it
	} {
		u := new(Upstream)
		observe(u, 0, Observation{Kind: ConnectFailure})
		observe(u, 0, Observation{Kind: kind})
		if got := u.Status().ConnectFailed; got != failed {
			t.Errorf("connect failed, then kind %d: %v", kind, got)
		}
	}
}

// TestStaleToken: the token of a probe that was told of is worth nothing.
func TestStaleToken(t *testing.T) {
	u, stale := upstreamAt(t, probing)
	observe(u, 10*sec, Observation{Kind: Cancelled, Probe: stale})
	tok := probeAt(t, u, 20*sec)
	if tr := observe(u, 20*sec, Observation{Kind: Success, Probe: stale}); tr.Changed() {
		t.Error("a stale token closed the circuit")
	}
	observe(u, 20*sec, Observation{Kind: Cancelled, Probe: stale})
	if s := u.Status(); s.Circuit != HalfOpen {
		t.Error("a stale token ended another probe")
	}
	if tr := observe(u, 20*sec, Observation{Kind: Success, Probe: tok}); tr.Event() != EventCircuitClosed {
		t.Error("the probe itself does not close it")
	}
	again, _ := upstreamAt(t, opened)
	if tr := observe(again, 10*sec, Observation{Kind: Success, Probe: tok}); tr.Changed() {
		t.Error("the token of a circuit that was closed since closed it again")
	}
}

// TestUnsettledProbe: a probe that ends without a result opens the circuit again,
// without growth, for at least as long as it has waited.
func TestUnsettledProbe(t *testing.T) {
	for _, o := range []Observation{{Kind: Neutral}, {Kind: Cancelled, Overtaken: true}, {Kind: SoftFail}, {Kind: ReplyTimeout}} {
		kind := o.Kind
		for waited, want := range map[time.Duration]time.Duration{
			0: 10 * sec, 4 * sec: 10 * sec, 25 * sec: 25 * sec, 300 * sec: 10 * sec,
		} {
			u, tok := upstreamAt(t, probing)
			now := 10*sec + waited
			o.Probe = tok
			observe(u, now, o)
			if waited > ProbeLimit {
				// Its turn was over long before, and so was what followed.
				if want = 30 * sec; kind == Neutral || kind == Cancelled {
					want = ProbeLimit
				}
			}
			next := now + want
			if _, ok := tryProbe(u, next-1); ok {
				t.Errorf("kind %d after %s: a probe before %s are over", kind, waited, want)
			}
			tok = probeAt(t, u, next)
			observe(u, next, Observation{Kind: Failure, Probe: tok})
			if d := u.breaker.until.sub(instantAt(next)); d != 20*sec {
				t.Errorf("kind %d after %s: open for %s after the first failure of a probe", kind, waited, d)
			}
		}
	}
}

// TestProbeOfClientThatLeft: it keeps the upstream out for as long as it has waited, so
// that clients that leave at once do not take all probes from the others. Where credentials
// are refused, it may have been one more attempt at them.
func TestProbeOfClientThatLeft(t *testing.T) {
	for waited, want := range map[time.Duration]time.Duration{
		0: 0, 5 * ms: 5 * ms, 4 * sec: 4 * sec, 25 * sec: 25 * sec, 300 * sec: ProbeLimit,
	} {
		u, tok := upstreamAt(t, probing)
		now := 10*sec + waited
		observe(u, now, Observation{Kind: Cancelled, Probe: tok})
		if _, ok := tryProbe(u, now+want-1); ok {
			t.Errorf("after %s: a probe before %s are over", waited, want)
		}
		tok = probeAt(t, u, now+want)
		observe(u, now+want, Observation{Kind: Failure, Probe: tok})
		if d := u.breaker.until.sub(instantAt(now + want)); d != 20*sec {
			t.Errorf("after %s: open for %s after the first failure of a probe", waited, d)
		}
	}
	u, tok := upstreamAt(t, proving)
	observe(u, 10*sec+5*ms, Observation{Kind: Cancelled, Probe: tok})
	if _, ok := tryProbe(u, 20*sec+5*ms-1); ok {
		t.Error("credentials that were refused are tried again at once")
	}
}

// TestProbeOfClientsThatLeave: an upstream that hangs gets fewer and fewer of the clients
// that do not wait for it, down to one in each open period; a result ends that. Clients that
// leave at once take nothing from the others all the same.
func TestProbeOfClientsThatLeave(t *testing.T) {
	u, tok := upstreamAt(t, probing)
	now := 10 * sec
	for i, want := range []time.Duration{3 * sec, 6 * sec, 9 * sec, 10 * sec, 10 * sec} {
		now += 3 * sec
		observe(u, now, Observation{Kind: Cancelled, Probe: tok, Client: Client(i + 1)})
		if _, ok := tryProbe(u, now+want-1); ok {
			t.Errorf("%d have left: a probe before %s are over", i+1, want)
		}
		now += want
		tok = probeAt(t, u, now)
	}
	observe(u, now+20*sec, Observation{Kind: Cancelled, Probe: tok})
	now += 40 * sec // as long as it has waited, where that is longer
	tok = probeAt(t, u, now)
	observe(u, now, Observation{Kind: SoftFail, Probe: tok})
	now += 10 * sec
	for range 50 {
		tok = probeAt(t, u, now)
		observe(u, now+ms, Observation{Kind: Cancelled, Probe: tok})
		now += 51 * ms
	}
}

// TestOverloadSaysNothingOfCredentials: three refusals in a row are a fault whatever
// overload comes between; and where it is one, what the overload says is waited for.
func TestOverloadSaysNothingOfCredentials(t *testing.T) {
	u, tok := upstreamAt(t, probing)
	observe(u, 10*sec, Observation{Kind: AuthFault, Probe: tok})
	observe(u, 20*sec, Observation{Kind: Overload, Probe: probeAt(t, u, 20*sec)})
	if s := u.Status(); s.Circuit != Closed {
		t.Fatalf("%+v", s)
	}
	observe(u, 21*sec, Observation{Kind: AuthFault})
	if tr := observe(u, 22*sec, Observation{Kind: AuthFault}); tr.Event() != EventAuthFailed {
		t.Errorf("the third refusal: %+v", tr)
	}
	u, tok = upstreamAt(t, proving)
	observe(u, 10*sec, Observation{Kind: Overload, Probe: tok, RetryAfter: time.Minute})
	if _, ok := tryProbe(u, 70*sec-1); ok {
		t.Error("a login before Retry-After is over")
	}
	probeAt(t, u, 70*sec)
}

// TestUnsentProbe: a probe that was not sent gives its turn to the next request.
func TestUnsentProbe(t *testing.T) {
	for _, state := range []string{probing, proving} {
		u, tok := upstreamAt(t, state)
		observe(u, 17*sec, Observation{Kind: Neutral, Unsent: true, Probe: tok})
		again := probeAt(t, u, 17*sec)
		if tr := observe(u, 17*sec, Observation{Kind: Success, Reached: true, Probe: tok}); tr.Changed() {
			t.Errorf("%s: the first token is worth something", state)
		}
		if tr := observe(u, 18*sec, Observation{Kind: Success, Reached: true, Probe: again}); tr.Event() != EventCircuitClosed {
			t.Errorf("%s: %+v", state, tr)
		}
	}
}

// TestLostProbe: the turn of a probe that nobody tells of does not last for ever.
func TestLostProbe(t *testing.T) {
	u, lost := upstreamAt(t, probing)
	g := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
	other := new(Upstream)
	if err := g.SetMembers([]*Member{{Upstream: u}, {Upstream: other}}); err != nil {
		t.Fatal(err)
	}
	end := 10*sec + ProbeLimit
	for _, d := range []time.Duration{10 * sec, end - 1, end, end + ProbeLimit - 1} {
		if _, _, ok := g.TryProbe(at(d), 0, nil); ok {
			t.Fatalf("another probe at %s", d)
		}
	}
	_, tok, ok := g.TryProbe(at(end+ProbeLimit), 0, nil)
	if !ok || tok == lost {
		t.Fatalf("no probe after the one that was lost: token %d", tok)
	}
	// The first ends after all. Another probe is under way: only a result counts.
	for _, kind := range []Kind{Neutral, Cancelled, SoftFail, ReplyTimeout} {
		observe(u, end+ProbeLimit, Observation{Kind: kind, Probe: lost})
		if s := u.Status().Circuit; s != HalfOpen {
			t.Errorf("kind %d of a probe whose time was over: %s", kind, s)
		}
	}
	if tr := observe(u, end+ProbeLimit, Observation{Kind: Success, Probe: lost}); tr.Event() != EventCircuitClosed {
		t.Error("a probe that has passed after its time was over proves nothing")
	}

	// Its failure counts as that of a probe, once.
	for _, another := range []bool{false, true} {
		u, lost = upstreamAt(t, probing)
		if _, ok := tryProbe(u, end); ok {
			t.Fatal("a probe at once")
		}
		now := end + sec
		if another {
			now = end + ProbeLimit
			tok = probeAt(t, u, now)
		}
		observe(u, now, Observation{Kind: ConnectFailure, Probe: lost})
		observe(u, now, Observation{Kind: ConnectFailure, Probe: tok})
		if d := u.breaker.until.sub(instantAt(now)); d != 20*sec {
			t.Errorf("open for %s after the failure of a probe", d)
		}
	}
}

func TestInFlight(t *testing.T) {
	var u Upstream
	u.StartExchange()
	u.StartTunnel()
	u.StartTunnel()
	if u.Exchanges() != 1 || u.Tunnels() != 2 || u.InFlight() != 3 {
		t.Errorf("%d, %d, %d", u.Exchanges(), u.Tunnels(), u.InFlight())
	}
	u.EndExchange()
	u.EndTunnel()
	u.EndTunnel()
	if u.InFlight() != 0 {
		t.Error("not back to 0")
	}
}

func TestAdmin(t *testing.T) {
	u := new(Upstream)
	if tr := u.SetAdmin(Drain); !tr.Changed() || tr.Event() != EventNone || tr.Reason != ReasonAdmin || u.Available() {
		t.Errorf("drain: %+v", tr)
	}
	if tr := u.SetAdmin(Drain); tr.Changed() {
		t.Error("an edge without change")
	}
	u.SetAdmin(Ready)
	if !u.Available() {
		t.Error("not back")
	}
	// Its health is kept meanwhile, and it is not probed.
	v, _ := upstreamAt(t, opened)
	v.SetAdmin(Maint)
	if _, ok := tryProbe(v, time.Hour); ok {
		t.Error("probed in maintenance")
	}
	v.SetAdmin(Ready)
	if s := v.Status(); s.Circuit != Open {
		t.Errorf("circuit is %s after maintenance", s.Circuit)
	}
	probeAt(t, v, time.Hour)
}
