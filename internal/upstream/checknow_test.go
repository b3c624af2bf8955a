package upstream

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// checkedGroup is a group of a handler with one member, which is checked.
func checkedGroup(t *testing.T, handler string, timeout time.Duration, dial func(context.Context) (net.Conn, error)) (*Group, *Member) {
	t.Helper()
	g := mustNew(t, Config{Handler: handler, Static: []*Spec{{}}, Checks: &Checks{Type: CheckTCP, Interval: time.Hour, Timeout: timeout, Passes: 1, Fails: 1}})
	m := g.Members()[0]
	m.Conns.dial = dial
	g.Start()
	synctest.Wait()
	return g, m
}

func dialed(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	return near, far.Close()
}

// Where two handlers check an upstream in two ways, a check that is asked for through either is
// the one that counts.
func TestCheck_TwoWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, m := checkedGroup(t, "first", time.Second, dialed)
		second, n := checkedGroup(t, "second", 2*time.Second, dialed)
		for _, ask := range []func() (*Checked, error){
			func() (*Checked, error) { return first.Check(t.Context(), m) },
			func() (*Checked, error) { return second.Check(t.Context(), n) },
		} {
			c, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			if !c.Counts || c.Handler != "second" || c.Outcome != health.Passed {
				t.Errorf("%+v", c)
			}
		}
	})
}

// Who waits for a check of a member that goes is told at once; a member with other settings
// that takes its place is checked instead.
func TestCheck_MemberGoes(t *testing.T) {
	for name, stays := range map[string]bool{"gone": false, "changed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hangs := true
				g, m := checkedGroup(t, "only", time.Second, func(ctx context.Context) (net.Conn, error) {
					if hangs {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return dialed(ctx)
				})
				start := time.Now()
				type result struct {
					*Checked
					err error
				}
				got := make(chan result, 1)
				go func() {
					c, err := g.Check(t.Context(), m)
					got <- result{c, err}
				}()
				synctest.Wait()
				hangs = false
				g.mu.Lock()
				g.static = nil
				if stays {
					g.static = []*Spec{{Addr: m.Spec.Addr, Weight: 7}}
				}
				err := g.apply()
				g.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				r := <-got
				switch {
				case stays && (r.err != nil || !r.Counts):
					t.Errorf("%+v", r)
				case !stays && !errors.Is(r.err, ErrLeft):
					t.Errorf("%v", r.err)
				case !stays && time.Since(start) != 0:
					t.Errorf("told after %s", time.Since(start))
				}
			})
		})
	}
}
