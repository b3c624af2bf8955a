package egress

import (
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/accesslog"
	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
)

// observe makes the outcome visible: as placeholders, and as the object
// "egress" in the access log. Both are read when somebody asks for them, so a
// request that nobody looks at pays next to nothing.
func (in *incoming) observe() {
	ctx := in.HTTP.Context()
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(in.placeholder)
	}
	if in.logged() {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Object("egress", &in.Outcome))
		}
	}
}

// logged reports whether the server writes access logs.
func (in *incoming) logged() bool {
	return accesslog.Settings(in.HTTP) != nil
}

// setUser makes the user known to Caddy: to its access log, and to whoever uses
// the placeholder.
func (in *incoming) setUser(user string) {
	if repl, ok := in.HTTP.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(caddyserver.UserPlaceholder, user)
	}
}

const placeholderPrefix = "http.egress."

// placeholder answers for {http.egress.*}.
func (in *incoming) placeholder(key string) (any, bool) {
	if len(key) <= len(placeholderPrefix) || key[:len(placeholderPrefix)] != placeholderPrefix {
		return nil, false
	}
	o := &in.Outcome
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
	case "auth_user":
		return o.AuthUser, true
	case "fallback_from":
		return o.FallbackFrom, true
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
