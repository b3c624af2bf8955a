package metrics

import (
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Nothing is told any more of a group that no configuration has: not under its name, nor under
// that of a limit of its own.
func TestForgetsGroups(t *testing.T) {
	full := failure.Limit.Because(&upstream.NobodyError{Group: "before"})
	tell := func(u *Use) {
		u.Begin(upstream.Exchange)
		u.Ended(&core.Request{Use: upstream.Exchange, Outcome: core.Outcome{Group: "before", Status: 503, Failure: failure.Limit, Err: full}})
	}
	old := Acquire(t.Name(), []string{"before"}, nil)
	tell(old)
	if n := valuesOf(t, t.Name())["limit_rejections_total "+core.LimitOfGroup("before")]; n != 1 {
		t.Fatalf("counted %v times: %v", n, valuesOf(t, t.Name()))
	}
	now := Acquire(t.Name(), []string{"after"}, nil)
	defer now.Release()
	old.Release()
	for name := range valuesOf(t, t.Name()) {
		if strings.Contains(name, "before") {
			t.Errorf("%s is still told", name)
		}
	}
}
