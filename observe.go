package egress

import (
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/failure"
)

// observe makes the outcome visible: as placeholders, and as the object
// "egress" in the access log. Both are read when somebody asks for them, so a
// request that nobody looks at pays next to nothing.
func (t *transaction) observe() {
	ctx := t.r.Context()
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(t.placeholder)
	}
	if t.logged() {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Object("egress", &t.out))
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
	if repl, ok := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
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
	o := &t.out
	switch key[len(placeholderPrefix):] {
	case "path":
		return o.path(), true
	case "group":
		return o.group, true
	case "upstream":
		return o.upstream, true
	case "remote_ip":
		return o.remoteIP(), true
	case "reused":
		return o.reused, true
	case "attempts":
		return o.attempts, true
	case "dial_duration":
		return seconds(o.dial), true
	case "ttfb":
		return seconds(o.ttfb), true
	case "bytes_up":
		return o.bytesUp, true
	case "bytes_down":
		return o.bytesDown, true
	case "close_reason":
		return o.closeReason, true
	case "blame":
		return string(o.blame()), true
	case "reason":
		return o.reason(), true
	case "auth_error":
		return string(o.authFailure), true
	case "duration":
		return seconds(o.duration), true
	case "error":
		if o.err == nil {
			return "", true
		}
		return o.err.Error(), true
	}
	return nil, false
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// path is how the request left: empty where it did not.
func (o *outcome) path() string {
	if o.attempts > 0 && o.upstream != "" {
		return "upstream"
	}
	if o.attempts == 0 || o.failure != nil && (o.failure.Blame == failure.BlamePolicy || o.failure == failure.Limit || o.failure == failure.Holding || o.failure == failure.Circuit) {
		return ""
	}
	return "direct"
}

func (o *outcome) remoteIP() string {
	if !o.remote.IsValid() {
		return ""
	}
	return o.remote.String()
}

func (o *outcome) blame() failure.Blame {
	if o.failure == nil {
		return failure.BlameNobody
	}
	return o.failure.Blame
}

func (o *outcome) reason() string {
	if o.failure == nil {
		return ""
	}
	return o.failure.Type
}

// MarshalLogObject writes the outcome into a log line. Durations are in seconds,
// as Caddy's own.
func (o *outcome) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if path := o.path(); path != "" {
		enc.AddString("path", path)
		enc.AddInt("attempts", o.attempts)
		enc.AddBool("reused", o.reused)
	}
	if o.group != "" {
		enc.AddString("group", o.group)
	}
	if o.upstream != "" {
		enc.AddString("upstream", o.upstream)
	}
	if ip := o.remoteIP(); ip != "" {
		enc.AddString("remote_ip", ip)
	}
	if o.dial > 0 {
		enc.AddFloat64("dial_duration", o.dial.Seconds())
	}
	if o.ttfb > 0 {
		enc.AddFloat64("ttfb", o.ttfb.Seconds())
	}
	enc.AddFloat64("duration", o.duration.Seconds())
	enc.AddInt64("bytes_up", o.bytesUp)
	enc.AddInt64("bytes_down", o.bytesDown)
	for _, f := range [...]struct{ key, value string }{
		{"close_reason", o.closeReason},
		{"blame", string(o.blame())},
		{"reason", o.reason()},
		{"auth_error", string(o.authFailure)},
	} {
		if f.value != "" {
			enc.AddString(f.key, f.value)
		}
	}
	if o.err != nil {
		enc.AddString("error", o.err.Error())
	}
	return nil
}

// Interface guards
var _ zapcore.ObjectMarshaler = (*outcome)(nil)
