package egress

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
)

// The Via of a request is bounded.
func TestCheckVia(t *testing.T) {
	for n, want := range map[int]error{1 << 10: nil, 3 << 10: failure.Via} {
		tr := newIncoming(&Handler{proxy: core.Proxy{Via: core.NewVia("caddy")}}, nil, &http.Request{Header: http.Header{"Via": {strings.Repeat("x", n)}}})
		if err := tr.CheckVia(); err != want {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
