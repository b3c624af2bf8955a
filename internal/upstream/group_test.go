package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/selection"
)

// newGroup is a group of upstreams at closed ports, with the settings of specs.
func newGroup(t *testing.T, specs ...*Spec) *Group {
	t.Helper()
	return mustNew(t, Config{Static: specs})
}

// mustNew makes a group of a configuration, with what it leaves out filled in.
func mustNew(t *testing.T, cfg Config) *Group {
	t.Helper()
	cfg.Name, cfg.Logger, cfg.Context, cfg.State = "default", zap.NewNop(), t.Context(), new(State)
	cfg.Policy, cfg.Health = new(selection.EWMA), health.GroupConfig{UpstreamConfig: health.DefaultUpstreamConfig()}
	if cfg.Dialer == nil {
		cfg.Dialer = new(dial.Dialer)
	}
	cfg.Events = noEvents{}
	for i, s := range cfg.Static {
		if s.Weight = 1; s.Addr.Port == 0 {
			s.Addr = Address{Scheme: HTTP, Host: "127.0.0.1", Port: uint16(i + 1)}
		}
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

type noEvents struct{}

func (noEvents) Wanted(string) bool          { return false }
func (noEvents) Emit(string, map[string]any) {}

// A list that changes while its configuration goes leaves nothing behind.
func TestGroupClosesWhileItChanges(t *testing.T) {
	for range 100 {
		g := newGroup(t, &Spec{})
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				for n := range 20 {
					addr, err := ParseURL(fmt.Sprintf("http://127.0.0.1:%d", 100*i+n+2), "")
					if err != nil {
						t.Error(err)
						return
					}
					_ = g.replace(&g.listed, []*Spec{{Addr: addr, Weight: 1}})
				}
			})
		}
		g.Close()
		wg.Wait()
		if n := len(SharedHealth.All()) + len(SharedConns.All()); n != 0 {
			t.Fatalf("%d states are left", n)
		}
	}
}

// What a group says when it has nobody: busy is not broken.
func TestNobodyIsLeft(t *testing.T) {
	g := newGroup(t, &Spec{MaxTunnels: 1}, &Spec{MaxTunnels: 1})
	for _, m := range g.health.Members() {
		if !m.Value.(*Member).StartTunnel() {
			t.Fatal("no slot")
		}
	}
	_, err := g.Pick(new(selection.Choice), Tunnel)
	if failure.Of(err) != failure.Limit || err.Error() != "no upstream of group 'default' is available: 2 at their limit" {
		t.Errorf("%v: %v", failure.Of(err), err)
	}
	if _, err := g.Pick(&selection.Choice{Request: httptest.NewRequest(http.MethodGet, "http://a.example/", nil)}, Exchange); err != nil {
		t.Errorf("exchanges have limits of their own: %v", err)
	}
	m := g.health.Members()[0]
	for range 5 {
		g.health.Observe(time.Now(), m, health.Observation{Kind: health.ConnectFailure})
	}
	_, err = g.Pick(new(selection.Choice), Tunnel)
	if failure.Of(err) != failure.NoUpstream || err.Error() != "no upstream of group 'default' is available: 1 with an open circuit, 1 at their limit" {
		t.Errorf("%v: %v", failure.Of(err), err)
	}
}

// A question about the name of an upstream that fails is one failure of it, whoever waited
// for the answer. Where the answer is remembered for long, it is one failure a second.
func TestOwnNameCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, &Spec{}, &Spec{})
		m := g.Members()[0]
		burst := func(q *dnscache.Question) {
			err := &proxydial.Error{Stage: proxydial.StageDial, Err: q.Because(errors.New("server failure"))}
			v := judgeTunnel(t.Context(), err)
			if v.Kind != health.ConnectFailure {
				t.Fatalf("judged as %v", v.Kind)
			}
			for range 20 {
				g.Observe(Attempt{Member: m, started: time.Now()}, v, 1)
			}
		}
		for i := range 5 {
			if s := m.Health.Status().Circuit; s != health.Closed {
				t.Fatalf("%s after %d questions", s, i)
			}
			burst(new(dnscache.Question))
		}
		if s := m.Health.Status().Circuit; s != health.Open {
			t.Errorf("%s after five questions", s)
		}

		m = g.Members()[1]
		q := new(dnscache.Question)
		for i := range 4 {
			burst(q)
			if s := m.Health.Status(); s.Circuit != health.Closed || s.Spared {
				t.Fatalf("%s after %d seconds", s.Circuit, i)
			}
			time.Sleep(time.Second)
		}
		burst(q)
		if s := m.Health.Status(); !s.Spared {
			t.Error("five failures, and the last one does not count")
		}
	})
}

// Two that ask for the last slot at once do not refuse each other.
func TestStartTunnelIsExact(t *testing.T) {
	m := newGroup(t, &Spec{MaxTunnels: 3}).Members()[0]
	for range 200 {
		var wg sync.WaitGroup
		var got atomic.Int64
		for range 8 {
			wg.Go(func() {
				if m.StartTunnel() {
					got.Add(1)
				}
			})
		}
		wg.Wait()
		if got.Load() != 3 || m.Health.Tunnels() != 3 {
			t.Fatalf("%d of 3 slots were taken", got.Load())
		}
		for range 3 {
			m.Health.EndTunnel()
		}
	}
}
