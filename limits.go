package egress

import (
	"cmp"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/dial"
)

// This file contains who the client and the user of a request are, and what they hold.

// hold counts the request against the limits of its client and its user, once
// however often it is called. LetGo ends it.
func (t *request) hold() (err error) {
	clients, users := t.p.pool.Counts()
	if t.held.Taken() || !clients && !users {
		return nil
	}
	var client, user string
	if clients {
		client = t.client.IP()
	}
	if users {
		user = t.client.User()
	}
	t.held, err = t.p.pool.Hold(client, user)
	return err
}

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// authenticatedUser is the user whom we, or a handler before us, know the client
// as; "" if nobody does.
func authenticatedUser(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString(userPlaceholder)
	return user
}

// slotOf says which of some sources the request leaves from, where they are kept apart:
// its user's, or that of its client address where there is no user.
func (t *request) slotOf(s *dial.Sources) uint32 {
	if !s.KeptApart() {
		return 0
	}
	return s.Slot(cmp.Or(t.client.User(), t.client.IP()))
}
