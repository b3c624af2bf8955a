package egress

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// sourceFunc is a dynamic source.
type sourceFunc func(*http.Request) ([]*reverseproxy.Upstream, error)

func (f sourceFunc) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) { return f(r) }

// A source that fails is told of, one that a reload cuts off is not: it has done
// nothing wrong, and who would be told to act has nothing to do.
func TestFollowSource_CutOff(t *testing.T) {
	for name, fails := range map[string]bool{"fails": true, "is cut off": false} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.ErrorLevel)
			ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
			defer cancel()
			asked := make(chan struct{}, 1)
			g := &group{ctx: ctx, cfg: new(UpstreamGroup), logger: zap.New(core), stop: make(chan struct{})}
			g.source = sourceFunc(func(r *http.Request) ([]*reverseproxy.Upstream, error) {
				if fails {
					close(g.stop) // it is asked once
					return nil, errors.New("no answer")
				}
				asked <- struct{}{}
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				g.followSource()
			}()
			if !fails {
				<-asked
				cancel() // Cleanup, which closes the group, comes after that
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on")
			}
			if n := logs.Len(); (n > 0) != fails {
				t.Errorf("told: %v", logs.All())
			}
		})
	}
}
