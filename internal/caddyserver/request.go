package caddyserver

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// This file contains what Caddy keeps beside a request.

// UserPlaceholder is where Caddy keeps the authenticated user, ours or that of
// another handler.
const UserPlaceholder = "http.auth.user.id"

// ClientIP is the address of the client as Caddy's {client_ip} has it.
func ClientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// User is the user whom we, or a handler before us, know the client
// as; "" if nobody does.
func User(r *http.Request) string {
	repl := Replacer(r)
	if repl == nil {
		return ""
	}
	user, _ := repl.GetString(UserPlaceholder)
	return user
}

// Replacer is what replaces the placeholders of a request; nil where there is none.
func Replacer(r *http.Request) *caddy.Replacer {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}

// TakeUnhandled reports whether a request has come to the end of all handlers, and none has
// served it. Caddy does not know of that from then on.
func TakeUnhandled(r *http.Request) bool {
	const name = "unhandled" // that Caddy's last handler sets
	unhandled, _ := caddyhttp.GetVar(r.Context(), name).(bool)
	if unhandled {
		caddyhttp.SetVar(r.Context(), name, false)
	}
	return unhandled
}

// ConnectOnWire is the request target of a CONNECT request as it came, and the path in
// it, also where a handler before us has rewritten the request. On HTTP/1.1 that is
// all of what stood there, also what Go parses as something else.
func ConnectOnWire(r *http.Request) (requestTarget, path string) {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.Method == http.MethodConnect {
		return original.RequestURI, original.URL.Path
	}
	return r.RequestURI, r.URL.Path
}

// OverrideIdleTimeouts takes Caddy's own idle timeouts off a tunnel, which has
// timers of its own. The returned function puts them back.
func OverrideIdleTimeouts(r *http.Request) (restore func()) {
	const never = 100 * 365 * 24 * time.Hour
	restoreRead, restoreWrite := func() {}, func() {}
	rd, wr := caddyhttp.IdleTimeoutsFromContext(r.Context())
	// The hard deadlines are those of the server for a request, which do not hold for a tunnel.
	if rd != nil {
		rd.Deadline.HardDeadline = time.Time{}
		restoreRead = rd.Override(never, 0)
	}
	if wr != nil {
		wr.Deadline.HardDeadline = time.Time{}
		restoreWrite = wr.Override(never, 0, 0)
	}
	return func() {
		restoreRead()
		restoreWrite()
	}
}
