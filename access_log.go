package egress

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains access-log lines that are ours to write and not Caddy's: those of
// tunnels whose handler has returned, of requests with a password in their target, and
// of requests that Caddy sorts by a spelling of their host.

// accessLine is a line of the access log, in the loggers that take it.
type accessLine struct {
	loggers []*zap.Logger
	level   zapcore.Level
}

// accessEntry is what a line tells beside the request.
type accessEntry struct {
	read, size int64
	user       string
	status     int
	header     http.Header // of the response
	secrets    bool        // credentials in header are logged
	out        *core.Outcome
}

// serverLogs are the settings of the server's access log, nil where it has none.
func (t *transaction) serverLogs() *caddyhttp.ServerLogConfig {
	server, _ := t.HTTP.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return nil
	}
	return server.Logs
}

// accessLine prepares a line, or returns nil where there is to be none. The level is
// that of the line where nobody has set another one.
func (t *transaction) accessLine(level zapcore.Level) *accessLine {
	ctx := t.HTTP.Context()
	logs := t.serverLogs()
	if logs == nil || !logsRequest(logs, target.Hostname(t.HTTP.Host)) {
		return nil
	}
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip {
		return nil
	}
	line := &accessLine{level: level}
	if name, ok := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string); ok {
		if level, err := zapcore.ParseLevel(name); err == nil && level <= zapcore.ErrorLevel {
			line.level = level
		}
	}
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{
		Request:              t.loggedRequest(logs.ShouldLogCredentials),
		ShouldLogCredentials: logs.ShouldLogCredentials,
	})
	for _, name := range accessLoggerNames(logs, t.HTTP) {
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

// loggedRequest is the request as it came, but for passwords.
func (t *transaction) loggedRequest(secrets bool) *http.Request {
	r := t.HTTP.WithContext(t.HTTP.Context()) // a copy
	if t.rawHost != "" {
		r.Host = t.rawHost
	}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.RequestURI = original.RequestURI
	}
	if t.credentials != nil {
		r.Header = maps.Clone(r.Header)
		r.Header["Proxy-Authorization"] = t.credentials
	}
	if !secrets {
		r.Host = target.Redacted(r.Host)
		r.RequestURI = target.RedactedURI(r)
	}
	return r
}

// write writes the line, with the fields that Caddy's own has.
func (l *accessLine) write(e accessEntry) {
	for _, logger := range l.loggers {
		if c := logger.Check(l.level, "handled request"); c != nil {
			c.Write(
				zap.Int64("bytes_read", e.read),
				zap.String("user_id", e.user),
				zap.Duration("duration", e.out.Duration),
				zap.Int64("size", e.size),
				zap.Int("status", e.status),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: e.header, ShouldLogCredentials: e.secrets}),
				zap.Object("egress", e.out))
		}
	}
}

// namesUser reports whether there is user information where the request says where it
// goes. It is refused, but may be a password: it must not be logged.
func (t *transaction) namesUser() bool {
	return t.HTTP.URL.User != nil || strings.IndexByte(t.authority, '@') >= 0 ||
		t.HTTP.ProtoMajor == 1 && strings.IndexByte(t.HTTP.RequestURI, '@') >= 0 && target.RedactedURI(t.HTTP) != t.HTTP.RequestURI
}

// logSafely writes the line of a request whose target has user information, instead of
// Caddy, which has made a copy of the request before any handler saw it.
func (t *transaction) logSafely() {
	if logs := t.serverLogs(); logs == nil || logs.ShouldLogCredentials {
		return
	}
	if line := t.accessLine(zapcore.InfoLevel); line != nil {
		t.record()
		caddyhttp.SetVar(t.HTTP.Context(), caddyhttp.LogSkipVar, true)
		t.ownLine = line
	}
}

// logByDestination has the request logged, or not, as the configuration says of its
// destination: Caddy has decided by the spelling of the client.
func (t *transaction) logByDestination() {
	logs := t.serverLogs()
	if logs == nil || t.ownLine != nil {
		return
	}
	was, is := logsRequest(logs, target.Hostname(t.rawHost)), logsRequest(logs, target.Hostname(t.HTTP.Host))
	switch {
	case was && !is:
		caddyhttp.SetVar(t.HTTP.Context(), caddyhttp.LogSkipVar, true)
	case is && !was:
		t.record()
		t.ownLine = new(accessLine) // prepared when it is written
	}
}

// record counts what the client is sent, as Caddy does for its own lines.
func (t *transaction) record() {
	if t.Writer != nil { // explained only
		t.Writer = caddyhttp.NewResponseRecorder(t.Writer, nil, nil)
	}
}

// writeOwnLine writes the line of a request that is ours to log, when it is over.
func (t *transaction) writeOwnLine() {
	rec, ok := t.Writer.(caddyhttp.ResponseRecorder)
	if t.ownLine == nil || !ok {
		return
	}
	level := zapcore.InfoLevel
	if rec.Status() >= 500 {
		level = zapcore.ErrorLevel
	}
	line := t.ownLine
	if len(line.loggers) == 0 {
		// The line of a tunnel is written when that ends.
		if line = t.accessLine(level); line == nil {
			return
		}
	}
	line.write(accessEntry{
		read:    t.Outcome.BytesUp,
		size:    int64(rec.Size()),
		user:    t.Client.User(),
		status:  rec.Status(),
		header:  rec.Header(),
		secrets: t.serverLogs().ShouldLogCredentials,
		out:     &t.Outcome,
	})
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
	host := strings.ToLower(target.Hostname(r.Host))
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

// tunnelLog is the access-log line of a tunnel whose handler has returned,
// written when the tunnel ends. The request is encoded into the loggers right
// away, so that nothing of it stays in memory.
type tunnelLog struct {
	accessLine
	user  string
	start time.Time
	out   core.Outcome
}

// tunnelLog prepares the line, or returns nil where Caddy would write none.
func (t *transaction) tunnelLog() *tunnelLog {
	line := t.accessLine(zapcore.InfoLevel)
	if line == nil {
		return nil
	}
	return &tunnelLog{accessLine: *line, user: t.Client.User(), start: t.Start, out: t.Outcome}
}

// write writes the line, with the fields that Caddy's own has.
func (l *tunnelLog) write(result relay.Result) {
	l.out.Account(result, l.start)
	l.accessLine.write(accessEntry{
		read:   result.BytesUp,
		user:   l.user,
		size:   result.BytesDown,
		status: http.StatusOK,
		out:    &l.out,
	})
}
