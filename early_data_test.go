package egress

import (
	"crypto/tls"
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/upstream"
)

// A request that must not be done twice is refused while it may be a replay.
func TestCheckEarly(t *testing.T) {
	for _, tc := range []struct {
		method string
		kind   upstream.Use
		field  []string
		want   error
		early  bool
	}{
		{"GET", upstream.Exchange, nil, nil, false},
		{"POST", upstream.Exchange, nil, nil, false},
		{"GET", upstream.Exchange, []string{"1"}, nil, true},
		{"GET", upstream.Exchange, []string{"0", "x"}, nil, true},
		{"POST", upstream.Exchange, []string{"1"}, failure.Early, true},
		{"PUT", upstream.Exchange, []string{"1"}, failure.Early, true},
		{"CONNECT", upstream.Tunnel, []string{"1"}, failure.Early, true},
	} {
		header := http.Header{}
		if tc.field != nil {
			header[exchange.EarlyData] = tc.field
		}
		tr := newIncoming(new(Handler), nil, &http.Request{Method: tc.method, Header: header})
		tr.Use = tc.kind
		if err := tr.checkEarly(); err != tc.want && !errors.Is(err, tc.want) || tr.Early != tc.early {
			t.Errorf("%s %v: %v, early %t", tc.method, tc.field, err, tr.Early)
		}
	}
}

// Whether a request came early is told by the handshake, on every protocol.
func TestCameEarly(t *testing.T) {
	for _, tc := range []struct {
		state *tls.ConnectionState
		want  bool
	}{
		{nil, false}, {&tls.ConnectionState{HandshakeComplete: true}, false}, {&tls.ConnectionState{}, true},
	} {
		if got := cameEarly(&http.Request{TLS: tc.state}); got != tc.want {
			t.Errorf("%v: %t", tc.state, got)
		}
	}
}
