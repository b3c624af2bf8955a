package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/timing"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains checks of upstreams that are asked for.

// CheckedUpstream is what a check of an upstream has found.
type CheckedUpstream struct {
	ID       string       `json:"id" doc:"What the upstream is known by."`
	Group    string       `json:"group" doc:"Its group."`
	Upstream string       `json:"upstream" doc:"Its URL without credentials."`
	Handler  string       `json:"handler" doc:"The place of the handler whose check it was."`
	Type     string       `json:"type" doc:"What was asked: tcp, tls, connect or http, as health_check says; without one, tcp, and tls of an https upstream."`
	Outcome  string       `json:"outcome" doc:"passed, failed, inconclusive or unauthorized."`
	Error    string       `json:"error,omitempty" doc:"Why it did not pass."`
	Counts   bool         `json:"counts" doc:"Whether it counts for the health of the upstream, as the scheduled checks do."`
	Why      string       `json:"why,omitempty" doc:"Why it does not count."`
	Started  time.Time    `json:"started" doc:"When it began."`
	Seconds  seconds      `json:"seconds" doc:"How long it took, all targets together."`
	Timing   CheckTimings `json:"timing" doc:"What that time was taken by; of several targets, by the last one."`
	State    string       `json:"state" doc:"The word for the state of the upstream now."`
}

// CheckTimings are parts of the time of a check. What did not happen, as on a connection that
// stood already, is absent.
type CheckTimings struct {
	DNS     seconds `json:"dns_seconds,omitempty" doc:"Until the first answer to the question for its name; absent for an address, and where the answer was remembered."`
	Connect seconds `json:"connect_seconds,omitempty" doc:"Until the connection was established, or that has failed."`
	TLS     seconds `json:"tls_seconds,omitempty" doc:"The TLS handshake with the upstream."`
	Login   seconds `json:"login_seconds,omitempty" doc:"The login of SOCKS; that of HTTP is part of the answer."`
	Answer  seconds `json:"answer_seconds,omitempty" doc:"From the request to the answer that decides: the tunnel to the target, TLS with it, its page."`
}

func timingsOf(t *[timing.Parts]time.Duration) CheckTimings {
	return CheckTimings{
		secondsOf(t[timing.DNS]), secondsOf(t[timing.Connect]), secondsOf(t[timing.TLS]),
		secondsOf(t[timing.Login]), secondsOf(t[timing.Answer]),
	}
}

// checkUpstream has an upstream checked now. It takes as long as the check does: the
// deadline of the server for the request, which was read, would end it before.
func checkUpstream(c *call) (any, error) {
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	id := c.path["id"]
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // where there is none, it ends nothing
	for _, h := range handlers {
		found, checked, err := h.CheckUpstream(c.r.Context(), id)
		switch {
		case !found:
			continue
		case errors.Is(err, upstream.ErrChecking):
			return nil, apiError(http.StatusConflict, fmt.Errorf("%w; ask again when it has ended", err))
		case errors.Is(err, upstream.ErrLeft):
			return nil, apiError(http.StatusNotFound, err)
		case errors.Is(err, context.Canceled):
			return nil, apiError(http.StatusServiceUnavailable, err) // nobody reads it
		case err != nil:
			return nil, apiError(http.StatusGatewayTimeout, err)
		}
		return checkedOf(id, checked), nil
	}
	return nil, noUpstream(id)
}

func checkedOf(id string, c *upstream.Checked) *CheckedUpstream {
	out := &CheckedUpstream{
		ID: id, Handler: c.Handler, Type: c.Type, Outcome: c.Outcome.String(), Counts: c.Counts, Why: c.Why,
		Started: c.Started, Seconds: secondsOf(c.Took), Timing: timingsOf(&c.Times),
		Group: c.Member.Group, Upstream: c.Member.Name, State: c.Member.State,
	}
	if c.Err != nil {
		out.Error = plaintext.Short(c.Err.Error(), maxText)
	}
	return out
}

func noUpstream(id string) error {
	return apiError(http.StatusNotFound,
		fmt.Errorf("there is no upstream '%s'; GET %supstreams lists them with their id", plaintext.Printable(id), root))
}
