package egress

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/holdings"
)

// This file contains the limits that are not of one pool: what one client or
// user may hold, and what all connections of the process may.

// holdingError refuses a request because its client or user holds as much as
// it may.
type holdingError struct {
	setting string // that says so
}

// Failure is what it means for the request.
func (e *holdingError) Failure() *failure.Failure { return failure.Holding }

func (e *holdingError) Error() string {
	return fmt.Sprintf("client has as many requests under way as it may (%s)", e.setting)
}

// holding is what a request counts against. The zero value counts against nothing.
type holding struct {
	pool         *originPool // nil where nothing is held
	client, user string      // "" where none is counted
}

// counts reports whether a pool limits what a client, and what a user, may hold.
func (p *originPool) counts() (clients, users bool) { return p.clients != nil, p.users != nil }

// hold counts a request of a client and its user, each of which may be "" for nobody, or
// refuses it with a holdingError.
func (p *originPool) hold(client, user string) (holding, error) {
	if !acquireHolding(p.clients, client) {
		return holding{}, &holdingError{"max_per_client"}
	}
	if !acquireHolding(p.users, user) {
		releaseHolding(p.clients, client)
		return holding{}, &holdingError{"max_per_user"}
	}
	return holding{p, client, user}, nil
}

// taken reports whether anything is held.
func (h *holding) taken() bool { return h.pool != nil }

// letGo ends what is held, if anything is.
func (h *holding) letGo() {
	if h.pool != nil {
		releaseHolding(h.pool.clients, h.client)
		releaseHolding(h.pool.users, h.user)
		*h = holding{}
	}
}

// held are the requests that count against a client, and against a user.
func (p *originPool) held(client, user string) (ofClient, ofUser int) {
	if p.clients != nil {
		ofClient = p.clients.Count(client)
	}
	if p.users != nil {
		ofUser = p.users.Count(user)
	}
	return ofClient, ofUser
}

// hold counts the request against the limits of its client and its user, once
// however often it is called. letGo ends it.
func (t *transaction) hold() (err error) {
	clients, users := t.h.pool.counts()
	if t.held.taken() || !clients && !users {
		return nil
	}
	var client, user string
	if clients {
		client = clientIP(t.r)
	}
	if users {
		user = t.authenticatedUser()
	}
	t.held, err = t.h.pool.hold(client, user)
	return err
}

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
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
