package egress

import (
	"net/http"

	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains requests in TLS early data (RFC 8470): whoever has recorded them
// can send them again.

// cameEarly reports whether a request came before the handshake of the client was
// complete, or through an intermediary that says so. What the field holds does not
// matter (RFC 8470 §5.1).
func cameEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || r.Header[exchange.EarlyData] != nil
}

// checkEarly refuses what must not be done twice (RFC 8470 §5.2): the client repeats it
// when the handshake is complete. The rest is forwarded with Early-Data, and what the
// origin says to that is relayed.
func (t *transaction) checkEarly() error {
	if t.Early = cameEarly(t.HTTP); t.Early && (t.Use == upstream.Tunnel || !safeMethod(t.HTTP.Method)) {
		return failure.Early
	}
	return nil
}

// safeMethod reports whether a method changes nothing (RFC 9110 §9.2.1).
func safeMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
