package egress

import (
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/accesslog"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains access-log lines that are ours to write and not Caddy's: those of
// tunnels whose handler has returned, of requests with a password in their target, and
// of requests that Caddy sorts by a spelling of their host.

// accessLine prepares a line, or returns nil where there is to be none. The level is
// that of the line where nobody has set another one.
func (in *incoming) accessLine(level zapcore.Level) *accesslog.Line {
	if !in.logged() {
		return nil
	}
	return accesslog.Prepare(in.h.accessLogger, in.HTTP, level, in.loggedRequest)
}

// loggedRequest is the request as it came, but for passwords.
func (in *incoming) loggedRequest(secrets bool) *http.Request {
	r := in.HTTP.WithContext(in.HTTP.Context()) // a copy
	if in.rawHost != "" {
		r.Host = in.rawHost
	}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.RequestURI = original.RequestURI
	}
	if in.credentials != nil {
		r.Header = maps.Clone(r.Header)
		r.Header["Proxy-Authorization"] = in.credentials
	}
	if !secrets {
		r.Host = target.Redacted(r.Host)
		r.RequestURI = target.RedactedURI(r)
	}
	return r
}

// namesUser reports whether there is user information where the request says where it
// goes. It is refused, but may be a password: it must not be logged.
func (in *incoming) namesUser() bool {
	return in.HTTP.URL.User != nil || strings.IndexByte(in.authority, '@') >= 0 ||
		in.HTTP.ProtoMajor == 1 && strings.IndexByte(in.HTTP.RequestURI, '@') >= 0 && target.RedactedURI(in.HTTP) != in.HTTP.RequestURI
}

// logSafely writes the line of a request whose target has user information, instead of
// Caddy, which has made a copy of the request before any handler saw it.
func (in *incoming) logSafely() {
	if logs := accesslog.Settings(in.HTTP); logs == nil || logs.ShouldLogCredentials {
		return
	}
	if line := in.accessLine(zapcore.InfoLevel); line != nil {
		in.record()
		caddyhttp.SetVar(in.HTTP.Context(), caddyhttp.LogSkipVar, true)
		in.ownLine = line
	}
}

// logByDestination has the request logged, or not, as the configuration says of its
// destination: Caddy has decided by the spelling of the client.
func (in *incoming) logByDestination() {
	logs := accesslog.Settings(in.HTTP)
	if logs == nil || in.ownLine != nil {
		return
	}
	was, is := accesslog.Takes(logs, in.rawHost), accesslog.Takes(logs, in.HTTP.Host)
	switch {
	case was && !is:
		caddyhttp.SetVar(in.HTTP.Context(), caddyhttp.LogSkipVar, true)
	case is && !was:
		in.record()
		in.ownLine = new(accesslog.Line) // prepared when it is written
	case is:
		accesslog.SetLoggers(logs, in.HTTP)
	}
}

// record counts what the client is sent, as Caddy does for its own lines.
func (in *incoming) record() {
	if in.Writer != nil { // explained only
		in.Writer = caddyhttp.NewResponseRecorder(in.Writer, nil, nil)
	}
}

// logBroken has the line of a request whose connection or stream is about to be broken
// written here: net/http does that where a handler panics, and Caddy writes a duration of 0
// for a handler that does not return.
func (in *incoming) logBroken() {
	rec, ok := accesslog.Recorder(in.Writer)
	if !ok || in.ownLine != nil {
		return
	}
	if in.ownLine = in.accessLine(accesslog.LevelOf(rec)); in.ownLine != nil {
		caddyhttp.SetVar(in.HTTP.Context(), caddyhttp.LogSkipVar, true)
	}
}

// writeOwnLine writes the line of a request that is ours to log, when it is over.
func (in *incoming) writeOwnLine() {
	rec, ok := accesslog.Recorder(in.Writer)
	if in.ownLine == nil || !ok {
		return
	}
	line := in.ownLine
	if !line.Prepared() {
		// The line of a tunnel is written when that ends.
		if line = in.accessLine(accesslog.LevelOf(rec)); line == nil {
			return
		}
	}
	line.Write(accesslog.Entry{
		Read: in.Outcome.BytesUp, Size: int64(rec.Size()),
		User: in.Client.User(), Duration: in.Outcome.Duration,
		Status:  rec.Status(),
		Header:  rec.Header(),
		Secrets: accesslog.Settings(in.HTTP).ShouldLogCredentials,
		Outcome: &in.Outcome,
	})
}

// tunnelLog is the access-log line of a tunnel whose handler has returned,
// written when the tunnel ends. Nothing of the request is kept for it.
type tunnelLog struct {
	line  *accesslog.Line
	user  string
	start time.Time
	out   core.Outcome
}

// tunnelLog prepares the line, or returns nil where Caddy would write none.
func (in *incoming) tunnelLog(status uint16) *tunnelLog {
	line := in.accessLine(zapcore.InfoLevel)
	if line == nil {
		return nil
	}
	l := &tunnelLog{line: line, user: in.Client.User(), start: in.Start, out: in.Outcome}
	l.out.Status = status
	return l
}

// write writes the line.
func (l *tunnelLog) write(result relay.Result) {
	l.out.Account(result, l.start)
	l.line.Write(accesslog.Entry{
		Read: l.out.BytesUp, Size: result.BytesDown, // read, with the body before an upgrade
		User: l.user, Duration: l.out.Duration,
		Status: int(l.out.Status), Outcome: &l.out,
	})
}
