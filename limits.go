package egress

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// hold counts the request against the limits of its client and its user, once
// however often it is called. LetGo ends it.
func (t *transaction) hold() (err error) {
	clients, users := t.h.pool.Counts()
	if t.held.Taken() || !clients && !users {
		return nil
	}
	var client, user string
	if clients {
		client = clientIP(t.r)
	}
	if users {
		user = t.authenticatedUser()
	}
	t.held, err = t.h.pool.Hold(client, user)
	return err
}

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}
