package matchers

import (
	"errors"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/failure"
)

// What a matcher answers a request with is the answer.
func TestFailed(t *testing.T) {
	for status, want := range map[int]int{425: 425, 404: 404, 503: 503, 500: 500, 0: 500, 200: 500} {
		if got := failure.Of(Failed(caddyhttp.Error(status, errors.New("no")))).Status; got != want {
			t.Errorf("%d: answered with %d, want %d", status, got, want)
		}
	}
}
