package health

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

const ms = time.Millisecond

// answers tells of n answers that took so long, one every 30 ms up to now.
func answers(u *Upstream, now time.Duration, n int, took time.Duration) {
	for k := range n {
		now := now - time.Duration(n-1-k)*30*ms
		observe(u, now, Observation{Kind: Success, Reached: true, Started: at(now - took)})
	}
}

// latencyWithin fails unless the latency is in bounds.
func latencyWithin(t *testing.T, what string, u *Upstream, now, least, most time.Duration) {
	t.Helper()
	if got := u.Latency(at(now)); got < least || got > most {
		t.Errorf("%s: a latency of %s, want %s to %s", what, got, least, most)
	}
}

func TestLatencyIsTheMeanOfAnswers(t *testing.T) {
	u := new(Upstream)
	latencyWithin(t, "before anything", u, 0, 0, 0)
	answers(u, sec, 1, 50*ms)
	latencyWithin(t, "one answer", u, sec, 50*ms, 50*ms)
	answers(u, 2*sec, 30, 50*ms)
	latencyWithin(t, "answers alike", u, 2*sec, 50*ms, 50*ms)
	latencyWithin(t, "silence", u, time.Hour, 50*ms, 50*ms)
	answers(u, time.Hour, 40, 5*ms)
	latencyWithin(t, "a faster time", u, time.Hour, 5*ms, 7*ms)
	answers(u, time.Hour+2*sec, 40, 50*ms)
	latencyWithin(t, "a slower time", u, time.Hour+2*sec, 35*ms, 50*ms)
	answers(u, sec, 1, 50*ms)
	latencyWithin(t, "a clock that goes back", u, sec, 35*ms, 50*ms)
	answers(u, 2*time.Hour, 100, time.Microsecond)
	latencyWithin(t, "less than can be told apart", u, 2*time.Hour, ms, ms+ms/10)
}

// TestFirstAnswersCountAlike: the first answer, which needs a connection, and may need
// much else, is not what the upstream is known by.
func TestFirstAnswersCountAlike(t *testing.T) {
	u := new(Upstream)
	answers(u, sec, 1, 80*ms)
	answers(u, 2*sec, 7, 10*ms)
	latencyWithin(t, "the mean of eight", u, 2*sec, 11*ms, 16*ms)
}

// TestOneSlowAnswer: a slow destination does not take an upstream out of use.
func TestOneSlowAnswer(t *testing.T) {
	u := new(Upstream)
	answers(u, sec, 100, 5*ms)
	now := 7 * sec
	answers(u, now, 1, 6*sec)
	latencyWithin(t, "after it", u, now, 6*ms, 40*ms)
	answers(u, now+sec, 20, 5*ms)
	latencyWithin(t, "20 answers later", u, now+sec, 5*ms, 10*ms)
}

// TestSlowUpstreamIsNoticed, whether it is asked often or seldom.
func TestSlowUpstreamIsNoticed(t *testing.T) {
	u := new(Upstream)
	answers(u, sec, 100, 5*ms)
	answers(u, 3*sec, 32, 100*ms)
	latencyWithin(t, "asked often", u, 3*sec, 50*ms, 100*ms)
	for k := range 6 {
		answers(u, sec+time.Duration(k)*time.Minute, 1, 4*sec)
	}
	latencyWithin(t, "asked seldom", u, 6*time.Minute, sec, 4*sec)
}

// TestFailureIsNotFast: what fails at once has a long latency, not the shortest, and
// what may have failed for its destination neither gains nor loses by that.
func TestFailureIsNotFast(t *testing.T) {
	const before = 50 * ms
	for _, tc := range []struct {
		name        string
		o           Observation
		took        time.Duration
		least, most time.Duration
	}{
		{"connect", Observation{Kind: ConnectFailure}, 2 * ms, 8 * before, 15 * before},
		{"connect, slowly", Observation{Kind: ConnectFailure}, 30 * sec, 18 * before, 30 * before},
		{"failure", Observation{Kind: Failure}, 2 * ms, 8 * before, 15 * before},
		{"credentials", Observation{Kind: AuthFault}, 2 * ms, before, before},
		{"relayed failure", Observation{Kind: Failure, Relayed: true}, 2 * ms, before, before},
		{"relayed, slowly", Observation{Kind: Failure, Relayed: true}, 30 * sec, before, before},
		{"no detail", Observation{Kind: SoftFail}, 2 * ms, before, before},
		{"no reply", Observation{Kind: ReplyTimeout}, 5 * sec, 8 * before, 15 * before},
		{"given up", Observation{Kind: Cancelled}, 5 * sec, 8 * before, 15 * before},
		{"given up at once", Observation{Kind: Cancelled}, 2 * ms, before, before},
		{"explained", Observation{Kind: Success}, 2 * ms, before, before},
		{"of unknown length", Observation{Kind: Success, Reached: true}, 0, before, before},
		{"neutral", Observation{Kind: Neutral}, 2 * ms, before, before},
	} {
		u := new(Upstream)
		answers(u, sec, 20, before)
		now := time.Minute
		if tc.took > 0 {
			tc.o.Started = at(now - tc.took)
		}
		observe(u, now, tc.o)
		latencyWithin(t, tc.name, u, now, tc.least, tc.most)
	}
}

// TestPenaltyFades, by answers and by time, whatever else is observed meanwhile.
func TestPenaltyFades(t *testing.T) {
	failed := func() *Upstream {
		u := new(Upstream)
		answers(u, sec, 20, 10*ms)
		observe(u, sec, Observation{Kind: ConnectFailure})
		latencyWithin(t, "a failure", u, sec, 150*ms, 300*ms)
		return u
	}
	u := failed()
	answers(u, 2*sec, 6, 10*ms)
	latencyWithin(t, "six answers", u, 2*sec, 10*ms, 12*ms)
	if u.penalty.Load() != 0 {
		answers(u, 3*sec, 1, 10*ms)
		if u.penalty.Load() != 0 {
			t.Error("the penalty stays")
		}
	}
	u = failed()
	for range 6 { // of requests with a body
		observe(u, 2*sec, Observation{Kind: Success, Reached: true})
	}
	latencyWithin(t, "six answers of unknown length", u, 2*sec, 10*ms, 12*ms)

	for _, o := range []Observation{
		{Kind: Neutral},
		{Kind: SoftFail},
		{Kind: Success},
		{Kind: Overload},
		{Kind: Failure, Relayed: true},
		{Kind: AuthFault, Relayed: true},
		{Kind: Cancelled},
	} {
		u, now := failed(), sec
		for range 500 {
			now += 100 * ms
			o.Started = at(now - 2*ms)
			observe(u, now, o)
		}
		latencyWithin(t, "50 s", u, now, 10*ms, 10*ms)
	}

	u = failed()
	repeat(u, sec, 20, Observation{Kind: ConnectFailure})
	latencyWithin(t, "20 failures more", u, sec, 4*sec, failedLatency)
}

// TestFailureOfUnknown: an upstream that has failed and never answered is not taken for
// a fast one, neither at first nor when the failure is long ago.
func TestFailureOfUnknown(t *testing.T) {
	u := new(Upstream)
	observe(u, sec, Observation{Kind: Cancelled, Started: at(sec - 3*ms)})
	latencyWithin(t, "given up at once", u, sec, 0, 0)
	observe(u, sec, Observation{Kind: ConnectFailure, Started: at(sec - 3*ms)})
	for d := sec; d < sec+latencyTau; d += sec {
		latencyWithin(t, "failed", u, d, failedLatency, failedLatency)
	}
	latencyWithin(t, "long ago", u, sec+latencyTau, 0, 0)
	observe(u, time.Minute, Observation{Kind: ConnectFailure})
	latencyWithin(t, "again", u, time.Minute, failedLatency, failedLatency)
	answers(u, time.Minute+5*sec, 10, 20*ms)
	latencyWithin(t, "ten answers", u, time.Minute+5*sec, 20*ms, 21*ms)
}

// TestOthersAnswerMeanwhile: a request that waits while others are answered waits for
// its destination.
func TestOthersAnswerMeanwhile(t *testing.T) {
	for _, kind := range []Kind{ReplyTimeout, Cancelled} {
		u := new(Upstream)
		answers(u, 10*sec, 20, 10*ms)
		observe(u, 20*sec, Observation{Kind: kind, Destination: 1, Started: at(9 * sec)})
		latencyWithin(t, "answered since", u, 20*sec, 10*ms, 10*ms)
		observe(u, 20*sec, Observation{Kind: kind, Destination: 1, Started: at(11 * sec)})
		latencyWithin(t, "not answered since", u, 20*sec, 200*ms, sec)
	}
}

// TestLatencyAtOnce: samples and penalties of many requests at once leave a latency that
// is one of an upstream.
func TestLatencyAtOnce(t *testing.T) {
	u := new(Upstream)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for k := range 2000 {
				now := time.Duration(k) * ms
				u.sample(instantAt(now), (10+rand.N(10*ms/ms))*ms)
				u.easePenalty(instantAt(now))
				if k%100 == 0 {
					u.penalize(instantAt(now), failedLatency)
				}
				if got := u.Latency(at(now)); got < 10*ms || got > failedLatency {
					t.Errorf("a latency of %s", got)
					return
				}
			}
		})
	}
	all.Wait()
	answers(u, time.Minute, 1, 10*ms)
	latencyWithin(t, "afterwards", u, time.Minute, 10*ms, 20*ms)
}

func TestToward(t *testing.T) {
	for _, a := range []time.Duration{ms, 3 * ms, 50 * ms, sec, time.Hour} {
		for _, b := range []time.Duration{ms, 3 * ms, 50 * ms, sec, time.Hour} {
			if got := toward(a, b, 1); got != b {
				t.Errorf("from %s to %s: %s", a, b, got)
			}
			half := toward(a, b, 2)
			if r := float64(half) / float64(a) * float64(half) / float64(b); r < 0.88 || r > 1.13 {
				t.Errorf("half of the way from %s to %s: %s", a, b, half)
			}
		}
	}
}
