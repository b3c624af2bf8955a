package core_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// counting selects the first member that is eligible, and counts how often it was asked.
type counting struct{ asked int }

func (c *counting) Select(s *selection.Choice) int {
	c.asked++
	for i := range s.Members {
		if s.Eligible(i) {
			return i
		}
	}
	return -1
}

type noEvents struct{}

func (noEvents) Wanted(string) bool          { return false }
func (noEvents) Emit(string, map[string]any) {}

// groupOf is a group of upstreams at closed ports.
func groupOf(t *testing.T, members int, policy selection.Policy, to *destination.Path) *upstream.Group {
	t.Helper()
	specs := make([]*upstream.Spec, members)
	for i := range specs {
		specs[i] = &upstream.Spec{Weight: 1, Addr: upstream.Address{Scheme: upstream.HTTP, Host: "127.0.0.1", Port: uint16(i + 1)}}
	}
	g, err := upstream.New(upstream.Config{
		Name: t.Name(), Static: specs, Policy: policy, Balancing: upstream.Balancing{Retries: 2, TryDuration: time.Minute},
		Health: health.GroupConfig{UpstreamConfig: health.DefaultUpstreamConfig()},
		State:  new(upstream.State), Destinations: to, Dialer: new(dial.Dialer),
		Events: noEvents{}, Context: t.Context(), Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// A destination that fails through more members than are told apart is refused without a
// look at each of the others: clients decide how often such a one is asked for.
func TestPassedOver_CostsTheSameInLargeGroups(t *testing.T) {
	asked := make(map[int]int)
	for _, members := range []int{100, 400} {
		cfg := health.CircuitConfig{Failures: 2, Window: time.Hour, OpenFor: time.Hour, MaxOpenFor: time.Hour}
		path := destination.New(cfg, false).Path("default", zap.NewNop())
		policy := new(counting)
		g := groupOf(t, members, policy, path)
		req := ask(t, newProxy(t), upstream.Tunnel, "127.0.0.1:9")
		req.Route = &core.Route{To: core.Exit{Group: g}}
		for range 2 {
			for _, m := range g.Members()[:20] {
				about := path.About(req.Target, false)
				_ = about.Take(m.Key(), time.Minute)
				about.Settle(failure.Refused.Because(errors.New("refused")), true)
			}
		}
		err := req.OverWays(func() error {
			t.Errorf("%d members: one of them was asked", members)
			return nil
		})
		if failure.Of(err) != failure.Circuit {
			t.Errorf("%d members: %v", members, err)
		}
		if open, ok := errors.AsType[*destination.OpenError](err); !ok || open.RetryAfter <= time.Minute {
			t.Errorf("%d members: nothing says when: %v", members, err)
		}
		asked[members] = policy.asked
	}
	if asked[100] != asked[400] {
		t.Errorf("four times as many members took %d choices instead of %d", asked[400], asked[100])
	}
}
