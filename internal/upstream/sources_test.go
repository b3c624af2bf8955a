package upstream

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A source that fails is told of, one that a reload cuts off is not: it has done
// nothing wrong, and who would be told to act has nothing to do.
func TestFollowSource_CutOff(t *testing.T) {
	for name, fails := range map[string]bool{"fails": true, "is cut off": false} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.ErrorLevel)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := make(chan struct{}, 1)
			g := &Group{cfg: Config{Context: ctx, Logger: zap.New(core)}, stop: make(chan struct{})}
			g.cfg.Source = func() ([]Address, error) {
				if fails {
					close(g.stop) // it is asked once
					return nil, errors.New("no answer")
				}
				asked <- struct{}{}
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
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
