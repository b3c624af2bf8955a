package egress

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/relay"
)

// tunnelLog is the access-log line of a tunnel whose handler has returned,
// written when the tunnel ends. The request is encoded into the loggers right
// away, so that nothing of it stays in memory.
type tunnelLog struct {
	loggers []*zap.Logger
	level   zapcore.Level
	user    string
	start   time.Time
	out     outcome
}

// tunnelLog prepares the line, or returns nil where Caddy would write none.
func (t *transaction) tunnelLog() *tunnelLog {
	ctx := t.r.Context()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil || !logsRequest(server.Logs, hostname(t.r.Host)) {
		return nil
	}
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip {
		return nil
	}
	line := &tunnelLog{start: t.start, out: t.out, level: zapcore.InfoLevel}
	line.user = t.authenticatedUser()
	if name, ok := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string); ok {
		if level, err := zapcore.ParseLevel(name); err == nil && level <= zapcore.ErrorLevel {
			line.level = level
		}
	}
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{
		Request:              t.r,
		ShouldLogCredentials: server.Logs.ShouldLogCredentials,
	})
	for _, name := range accessLoggerNames(server.Logs, t.r) {
		logger := t.h.accessLogger
		if name != "" {
			logger = logger.Named(name)
		}
		if logger.Core().Enabled(line.level) {
			line.loggers = append(line.loggers, logger.With(request))
		}
	}
	if len(line.loggers) == 0 {
		return nil
	}
	return line
}

// logsRequest reports whether the server logs requests for a host, by the rules
// of its configuration.
func logsRequest(logs *caddyhttp.ServerLogConfig, host string) bool {
	matches := func(pattern string) bool { return certmagic.MatchWildcard(host, pattern) }
	for name := range logs.LoggerNames {
		if matches(name) {
			return true
		}
	}
	return !slices.ContainsFunc(logs.SkipHosts, matches) && !logs.SkipUnmappedHosts
}

// accessLoggerNames are the names of the loggers that take the line, as the
// server's configuration has them: those that `log_name` has set, or those of
// the host, or of a wildcard for it, or the default one.
func accessLoggerNames(logs *caddyhttp.ServerLogConfig, r *http.Request) []string {
	if names, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		var out []string
		for _, name := range names {
			if s, ok := name.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	host := strings.ToLower(hostname(r.Host))
	if names, ok := logs.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		labels[i] = "*"
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{logs.DefaultLoggerName}
}

// write writes the line, with the fields that Caddy's own has.
func (l *tunnelLog) write(result relay.Result) {
	l.out.account(result, l.start)
	for _, logger := range l.loggers {
		if c := logger.Check(l.level, "handled request"); c != nil {
			c.Write(
				zap.Int64("bytes_read", result.BytesUp),
				zap.String("user_id", l.user),
				zap.Duration("duration", l.out.duration),
				zap.Int64("size", result.BytesDown),
				zap.Int("status", http.StatusOK),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{}),
				zap.Object("egress", &l.out))
		}
	}
}
