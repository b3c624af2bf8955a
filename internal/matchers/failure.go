package matchers

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/failure"
)

// matcherError is the error of a matcher that says itself how a request is to be
// answered: remote_ip of a request in TLS early data, for one.
type matcherError struct{ caddyhttp.HandlerError }

// Failed is the error of a matcher, with the failure that it says itself.
func Failed(err error) error {
	if e, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		return &matcherError{e}
	}
	return err
}

// Failure is what the matcher says, as far as it is one.
func (e *matcherError) Failure() *failure.Failure {
	switch {
	case e.StatusCode == http.StatusTooEarly:
		return failure.Early
	case e.StatusCode >= 400 && e.StatusCode < 500:
		return &failure.Failure{Status: e.StatusCode, Type: "http_request_denied", Blame: failure.BlamePolicy, Text: "refused by a matcher of a route"}
	case e.StatusCode > 500 && e.StatusCode < 600:
		return &failure.Failure{Status: e.StatusCode, Type: "proxy_internal_error", Blame: failure.BlameProxy, Text: "a matcher of a route has failed"}
	}
	return failure.Internal
}
