package core

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// The probe of a destination goes on to its end where its client leaves, and its result
// counts: clients that leave at once do not keep the others from the destination.
func TestDirect_ProbeOfClientThatLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		shut bool
	}{
		"reached": {nil, false},
		"refused": {syscall.ECONNREFUSED, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dest := target.Target{Host: "8.8.4.4", Addr: netip.MustParseAddr("8.8.4.4"), Port: 80}
				cfg := health.CircuitConfig{Failures: 1, Window: time.Minute, OpenFor: time.Second, MaxOpenFor: time.Minute}
				var err error = syscall.ECONNREFUSED
				pause := time.Duration(0)
				d := &Direct{
					Circuits: destination.New(cfg, false).Path("", zap.NewNop()),
					Dialer: &dial.Dialer{
						Access: fixture.FixedRules(fixture.AccessList(t, "allow all")), Self: fixture.Self(nil, nil),
						Timeout: 10 * time.Second, FallbackDelay: time.Second, Order: dial.Orders["6"],
						Names: dial.NewNames(dnscache.New(dnscache.Config{})),
						DialAddr: func(ctx context.Context, _ netip.AddrPort, _ dial.Source) (*net.TCPConn, error) {
							select {
							case <-time.After(pause):
								return new(net.TCPConn), err
							case <-ctx.Done():
								return nil, ctx.Err()
							}
						},
					},
				}
				if _, err := d.Dial(t.Context(), dest, false); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				err, pause = tc.err, 100*time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // it leaves
				defer cancel()
				if _, err := d.Dial(ctx, dest, false); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the client that left: %v", err)
				}
				if _, err := d.Circuits.Look(dest, false, 0); err == nil {
					t.Error("no probe is under way")
				}
				time.Sleep(pause)
				synctest.Wait()
				if _, open := d.Circuits.Look(dest, false, 0); (open != nil) != tc.shut {
					t.Errorf("after the probe: %v", open)
				}
			})
		})
	}
}
