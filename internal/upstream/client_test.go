package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/selection"
)

// The health of the members knows whose requests there are: of a user, wherever it is, or
// else of an address. A client whose probe has told nothing leaves the next one to others.
func TestProbesOfClients(t *testing.T) {
	for name, tc := range map[string]struct{ busy, same, other selection.Choice }{
		"addresses": {selection.Choice{ClientIP: "192.0.2.1"}, selection.Choice{ClientIP: "192.0.2.1"}, selection.Choice{ClientIP: "192.0.2.2"}},
		"users": {
			selection.Choice{User: "busy", ClientIP: "192.0.2.1"},
			selection.Choice{User: "busy", ClientIP: "192.0.2.2"},
			selection.Choice{User: "other", ClientIP: "192.0.2.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, &Spec{}, &Spec{}, &Spec{})
				pick := func(s selection.Choice) *Attempt {
					p, err := g.Pick(&s, Tunnel)
					if err != nil {
						t.Fatal(err)
					}
					return &p
				}
				for range 5 {
					p := Attempt{Member: g.Members()[0], started: time.Now()}
					g.Observe(p, Verdict{Kind: health.ConnectFailure}, 0)
				}
				time.Sleep(10 * time.Second) // the circuit is open for
				p := pick(tc.busy)
				if !p.IsProbe() {
					t.Fatal("no probe")
				}
				g.Observe(*p, Verdict{Kind: health.SoftFail}, 1)
				time.Sleep(10 * time.Second)
				if pick(tc.same).IsProbe() {
					t.Error("the same client has the next probe")
				}
				if f, err := g.Foresee(func() *selection.Choice { return &tc.same }, Tunnel); err != nil || f.Probe {
					t.Errorf("its next probe is foreseen: %v", err)
				}
				if f, err := g.Foresee(func() *selection.Choice { return &tc.other }, Tunnel); err != nil || !f.Probe {
					t.Errorf("the probe of another one is not foreseen: %v", err)
				}
				if !pick(tc.other).IsProbe() {
					t.Error("another client has none")
				}
			})
		})
	}
}

// What an origin may have written takes no member out while it is for one client alone, and
// others are served.
func TestOneClientsOrigins(t *testing.T) {
	for _, others := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			g := newGroup(t, &Spec{}, &Spec{}, &Spec{})
			busy, other := clientOf(&selection.Choice{ClientIP: "192.0.2.1"}), clientOf(&selection.Choice{ClientIP: "192.0.2.2"})
			through := func(n int, c health.Client, v Verdict, destination uint64) {
				g.Observe(Attempt{Member: g.Members()[n], client: c, started: time.Now()}, v, destination)
			}
			if others {
				through(0, other, Stands, 1000)
			}
			through(0, busy, Stands, 1001)
			time.Sleep(time.Second)
			for d := range uint64(40) {
				through(0, busy, Verdict{Kind: health.SoftFail, Relayed: true}, d+1)
				through(1, busy, Stands, d+1)
			}
			if up := g.Members()[0].Health.Available(); up != others {
				t.Errorf("others are served: %v; in rotation: %v", others, up)
			}
		})
	}
}
