package egress

import (
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/core"
)

// observe makes the outcome visible: as placeholders, and as the object
// "egress" in the access log. Both are read when somebody asks for them, so a
// request that nobody looks at pays next to nothing.
func (t *transaction) observe() {
	ctx := t.HTTP.Context()
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(t.placeholder)
	}
	if t.logged() {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Object("egress", &t.Outcome))
		}
	}
}

// logged reports whether the server writes access logs.
func (t *transaction) logged() bool {
	return t.serverLogs() != nil
}

// setUser makes the user known to Caddy: to its access log, and to whoever uses
// the placeholder.
func (t *transaction) setUser(user string) {
	if repl, ok := t.HTTP.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(userPlaceholder, user)
	}
}

// userPlaceholder is where Caddy keeps the authenticated user, ours or that of
// another handler.
const userPlaceholder = "http.auth.user.id"

const placeholderPrefix = "http.egress."

// placeholder answers for {http.egress.*}.
func (t *transaction) placeholder(key string) (any, bool) {
	if len(key) <= len(placeholderPrefix) || key[:len(placeholderPrefix)] != placeholderPrefix {
		return nil, false
	}
	o := &t.Outcome
	switch key[len(placeholderPrefix):] {
	case "path":
		return o.Path(), true
	case "group":
		return o.Group, true
	case "upstream":
		return o.Upstream, true
	case "remote_ip":
		return o.RemoteIP(), true
	case "reused":
		return o.Reused, true
	case "attempts":
		return int(o.Attempts), true
	case "dial_duration":
		return seconds(o.Dial), true
	case "ttfb":
		return seconds(o.TTFB), true
	case "bytes_up":
		return o.BytesUp, true
	case "bytes_down":
		return o.BytesDown, true
	case "close_reason":
		return o.CloseReason, true
	case "blame":
		return string(o.Blame()), true
	case "reason":
		return o.Reason(), true
	case "auth_error":
		return string(o.AuthFailure), true
	case "duration":
		return seconds(o.Duration), true
	case "error":
		if o.Err == nil {
			return "", true
		}
		return o.Err.Error(), true
	}
	return nil, false
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// Interface guards
var _ zapcore.ObjectMarshaler = (*core.Outcome)(nil)
