package accesslog

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Line is a line of the access log, in the loggers that take it. The request is encoded into
// them right away, so that nothing of it stays in memory.
type Line struct {
	loggers []*zap.Logger
	level   zapcore.Level
}

// Entry is what a line tells beside the request.
type Entry struct {
	Read, Size int64
	User       string
	Duration   time.Duration
	Status     int
	Header     http.Header // of the response
	Secrets    bool        // credentials in Header are logged
	Outcome    zapcore.ObjectMarshaler
}

// Prepare prepares the line of a request in the loggers of the server below base, or returns
// nil where there is to be none. The level is that of the line where nobody has set another
// one. shown is the request as it is to be logged, with its secrets or without.
func Prepare(base *zap.Logger, r *http.Request, level zapcore.Level, shown func(secrets bool) *http.Request) *Line {
	ctx := r.Context()
	logs := Settings(r)
	if logs == nil || !Takes(logs, r.Host) {
		return nil
	}
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip {
		return nil
	}
	line := &Line{level: level}
	if name, ok := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string); ok {
		if level, err := zapcore.ParseLevel(name); err == nil && level <= zapcore.ErrorLevel {
			line.level = level
		}
	}
	fields := append(traceFields(r), zap.Object("request", caddyhttp.LoggableHTTPRequest{
		Request:              shown(logs.ShouldLogCredentials),
		ShouldLogCredentials: logs.ShouldLogCredentials,
	}))
	for _, name := range loggerNames(logs, r) {
		logger := base
		if name != "" {
			logger = logger.Named(name)
		}
		if logger.Core().Enabled(line.level) {
			line.loggers = append(line.loggers, logger.With(fields...))
		}
	}
	if len(line.loggers) == 0 {
		return nil
	}
	return line
}

// traceFields are what Caddy's tracing adds to lines of the access log.
func traceFields(r *http.Request) (fields []zap.Field) {
	for _, f := range [...]struct{ name, variable string }{{"traceID", "trace_id"}, {"spanID", "span_id"}} {
		if id, ok := caddyhttp.GetVar(r.Context(), f.variable).(string); ok {
			fields = append(fields, zap.String(f.name, id))
		}
	}
	return fields
}

// Prepared reports whether the line has loggers: one that Prepare has not made has none.
func (l *Line) Prepared() bool { return len(l.loggers) > 0 }

// Write writes the line, with the fields that Caddy's own has.
func (l *Line) Write(e Entry) {
	for _, logger := range l.loggers {
		if c := logger.Check(l.level, "handled request"); c != nil {
			c.Write(
				zap.Int64("bytes_read", e.Read),
				zap.String("user_id", e.User),
				zap.Duration("duration", e.Duration),
				zap.Int64("size", e.Size),
				zap.Int("status", e.Status),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: e.Header, ShouldLogCredentials: e.Secrets}),
				zap.Object("egress", e.Outcome))
		}
	}
}

// Recorder is what counts what the client is sent. There may be writers around it, such as
// that of Caddy's tracing.
func Recorder(w http.ResponseWriter) (caddyhttp.ResponseRecorder, bool) {
	for {
		if rec, ok := w.(caddyhttp.ResponseRecorder); ok {
			return rec, true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil, false
		}
		w = u.Unwrap()
	}
}

// LevelOf is the level of a line where nobody has set another one, as Caddy chooses it.
func LevelOf(rec caddyhttp.ResponseRecorder) zapcore.Level {
	if rec.Status() >= 500 {
		return zapcore.ErrorLevel
	}
	return zapcore.InfoLevel
}
