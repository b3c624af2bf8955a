package health

import (
	"errors"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	cfg := exactConfig()
	u := new(Upstream)
	if r := u.Report(at(0), &cfg); r != (Report{Factor: 1}) {
		t.Errorf("of one that was never used: %+v", r)
	}
	bad := errors.New("no answer")
	u.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Failed, Err: bad})
	u.StartTunnel()
	observe(u, 0, Observation{Kind: Success, Reached: true, Started: at(-50 * time.Millisecond)})
	observe(u, 0, Observation{Kind: SoftFail, Destination: 1})
	observe(u, 0, Observation{Kind: Overload, RetryAfter: 5 * sec})
	repeat(u, 0, 2, Observation{Kind: ConnectFailure})
	want := Report{
		Status:  Status{Active: Down, ConnectFailed: true, CheckFailed: true},
		Tunnels: 1, Latency: u.Latency(at(0)), Factor: leastWeight,
		Since: at(0), Why: ReasonCheckFailed,
		Failures: 2, Passed: 1, Failed: 2, SoftFails: 1, Overloaded: at(5 * sec),
		LastCheck: at(0), LastOutcome: Failed, LastError: bad,
	}
	got := u.Report(at(0), &cfg)
	if !got.Overloaded.Equal(want.Overloaded) || !got.LastCheck.Equal(want.LastCheck) || !got.Since.Equal(want.Since) {
		t.Errorf("times: %s, %s", got.Overloaded, got.LastCheck)
	}
	if got.Latency < sec || got.Latency > failedLatency {
		t.Errorf("a latency of %s after two failures", got.Latency)
	}
	got.Overloaded, got.LastCheck, got.Since = want.Overloaded, want.LastCheck, want.Since
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	repeat(u, 0, 3, Observation{Kind: Failure})
	got = u.Report(at(6*sec), &cfg)
	if !got.OpenUntil.Equal(at(10*sec)) || got.Ejections != 1 || got.SoftFails != 0 || !got.Overloaded.IsZero() {
		t.Errorf("open: %+v", got)
	}
	tr := u.ForgetChecks()
	if tr.Reason != ReasonUnchecked || tr.To.Active != Unknown || u.Status().CheckFailed {
		t.Errorf("checks forgotten: %+v", tr)
	}
}
