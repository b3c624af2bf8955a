package origin

import (
	"fmt"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/holdings"
)

// HoldingError refuses a request because its client or user holds as much as
// it may.
type HoldingError struct {
	Setting string // that says so
}

// Failure is what it means for the request.
func (e *HoldingError) Failure() *failure.Failure { return failure.Holding }

func (e *HoldingError) Error() string {
	return fmt.Sprintf("client has as many requests under way as it may (%s)", e.Setting)
}

// Holding is what a request counts against. The zero value counts against nothing.
type Holding struct {
	pool         *Pool  // nil where nothing is held
	client, user string // "" where none is counted
}

// Counts reports whether a pool limits what a client, and what a user, may hold.
func (p *Pool) Counts() (clients, users bool) { return p.clients != nil, p.users != nil }

// Hold counts a request of a client and its user, each of which may be "" for nobody, or
// refuses it with a HoldingError.
func (p *Pool) Hold(client, user string) (Holding, error) {
	if !acquireHolding(p.clients, client) {
		return Holding{}, &HoldingError{"max_per_client"}
	}
	if !acquireHolding(p.users, user) {
		releaseHolding(p.clients, client)
		return Holding{}, &HoldingError{"max_per_user"}
	}
	return Holding{p, client, user}, nil
}

// Taken reports whether anything is held.
func (h *Holding) Taken() bool { return h.pool != nil }

// LetGo ends what is held, if anything is.
func (h *Holding) LetGo() {
	if h.pool != nil {
		releaseHolding(h.pool.clients, h.client)
		releaseHolding(h.pool.users, h.user)
		*h = Holding{}
	}
}

// Held are the requests that count against a client, and against a user.
func (p *Pool) Held(client, user string) (ofClient, ofUser int) {
	if p.clients != nil {
		ofClient = p.clients.Count(client)
	}
	if p.users != nil {
		ofUser = p.users.Count(user)
	}
	return ofClient, ofUser
}

// acquireHolding counts a holder where there is a limit and the holder is known.
func acquireHolding(c *holdings.Counter[string], holder string) bool {
	return c == nil || holder == "" || c.Acquire(holder)
}

func releaseHolding(c *holdings.Counter[string], holder string) {
	if c != nil && holder != "" {
		c.Release(holder)
	}
}

// WouldHold is Hold for somebody who looks only: the error that Hold would return now.
func (p *Pool) WouldHold(client, user string) error {
	ofClient, ofUser := p.Held(client, user)
	switch {
	case p.clients != nil && client != "" && ofClient >= p.limits.PerClient:
		return &HoldingError{"max_per_client"}
	case p.users != nil && user != "" && ofUser >= p.limits.PerUser:
		return &HoldingError{"max_per_user"}
	}
	return nil
}
