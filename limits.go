package egress

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/holdings"
)

// This file contains the limits that are not of one pool: what one client or
// user may hold, and what all connections of the process may; and who the client
// and the user of a request are.

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

// holding is what a request counts against.
type holding struct {
	taken        bool
	client, user string // "" where none is counted
}

// hold counts the request against the limits of its client and its user, once
// however often it is called. letGo ends it.
func (t *transaction) hold() error {
	p := t.h.pool
	if t.held.taken || p.clients == nil && p.users == nil {
		return nil
	}
	held := holding{taken: true}
	if p.clients != nil {
		held.client = clientIP(t.r)
	}
	if p.users != nil {
		held.user = t.authenticatedUser()
	}
	if !acquireHolding(p.clients, held.client) {
		return &holdingError{"max_per_client"}
	}
	if !acquireHolding(p.users, held.user) {
		releaseHolding(p.clients, held.client)
		return &holdingError{"max_per_user"}
	}
	t.held = held
	return nil
}

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// authenticatedUser is the user whom we, or a handler before us, know the client
// as; "" if nobody does.
func (t *transaction) authenticatedUser() string {
	repl, ok := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString(userPlaceholder)
	return user
}

// slotOf says which of some sources the request leaves from, where they are kept apart:
// its user's, or that of its client address where there is no user.
func (t *transaction) slotOf(s *dial.Sources) uint32 {
	if !s.KeptApart() {
		return 0
	}
	return s.Slot(cmp.Or(t.authenticatedUser(), clientIP(t.r)))
}

// letGo ends what hold has begun, if it has.
func (t *transaction) letGo() {
	if t.held.taken {
		releaseHolding(t.h.pool.clients, t.held.client)
		releaseHolding(t.h.pool.users, t.held.user)
		t.held = holding{}
	}
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
