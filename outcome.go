package egress

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
)

// outcome is how a request ended and what it took. The access log, the
// placeholders, the client's answer and passive health read this one value.
type outcome struct {
	failure *failure.Failure // nil on success
	err     error            // the error behind failure

	group       string     // of upstreams; empty for a direct path
	upstream    string     // of the last attempt, without credentials
	remote      netip.Addr // that was dialed
	reused      bool
	attempts    int
	dial        time.Duration
	ttfb        time.Duration
	duration    time.Duration
	bytesUp     int64
	bytesDown   int64
	closeReason string
	authFailure auth.Failure
}

// account takes the result of a tunnel into the outcome.
func (o *outcome) account(result relay.Result, start time.Time) {
	o.bytesUp, o.bytesDown = result.BytesUp, result.BytesDown
	o.closeReason = result.Reason.String()
	o.duration = time.Since(start)
	o.err = result.Err
	switch result.Reason {
	case relay.ReasonClientError:
		o.failure = failure.Canceled
	case relay.ReasonOriginError:
		o.failure = failure.Terminated
	}
}

// conclude accounts for the request, which is over: it has failed with err, if with any.
// It is the last step behind every door.
func (t *request) conclude(err error) {
	t.out.duration = time.Since(t.start)
	if err == nil {
		return
	}
	t.out.err, t.out.failure = err, failure.Of(err)
	if t.r.Context().Err() != nil {
		t.out.failure = failure.Canceled
	}
	t.logFailure()
}

// finish accounts for the request and, where it failed, tells the client. It
// is the last step of every request of ours.
func (t *transaction) finish(err error) error {
	if t.conclude(err); err == nil {
		return nil
	}
	if t.out.failure.Blame != failure.BlameProxy {
		t.logAsInfo()
	}
	if t.committed || t.out.failure == failure.Canceled {
		t.abort()
	}
	t.writeFailure()
	return nil
}

// logAsInfo keeps the access-log line at Info, which Caddy would raise to Error
// for every status from 500 on: what others did is no error of this server.
func (t *transaction) logAsInfo() {
	if t.logged() {
		caddyhttp.SetVar(t.r.Context(), caddyhttp.LogLevelVar, "INFO")
	}
}

// writeFailure answers with status, Proxy-Status and a sentence. It writes the
// answer itself: a returned error would leave the body to Caddy, which leaves
// it empty.
func (t *transaction) writeFailure() {
	f := t.out.failure
	header := t.w.Header()
	header.Set("Proxy-Status", t.h.ServerName+"; error="+f.Type+"; details="+quotedString(f.Text))
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	if f == failure.Auth {
		header.Set("Proxy-Authenticate", t.h.Auth.challenge())
	}
	if after := retryAfter(t.out.err); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	linger := t.closeClientConnection()
	body := f.Text + "\n"
	if t.target.Host != "" {
		body = t.target.String() + ": " + body
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	t.w.WriteHeader(f.Status)
	if t.r.Method != http.MethodHead {
		_, _ = io.WriteString(t.w, body)
	}
	if linger && t.upload == nil {
		t.linger()
	}
}

// RetryAfter is when the client may try again, 0 where nothing is known.
func retryAfter(err error) time.Duration {
	if c, ok := errors.AsType[*destination.OpenError](err); ok {
		return max(c.RetryAfter, time.Second)
	}
	switch failure.Of(err) {
	case failure.Limit, failure.Holding, failure.ClientLogins, failure.Logins:
		return time.Second
	}
	return 0
}

// logFailure writes the one line that says why. What clients, policy and
// destinations do is Debug: it is in the access log as well. What the operator
// must look at is a Warn or an Error; of limits and of groups that are out, what is
// beyond one line a second for each is Debug too.
func (t *request) logFailure() {
	level, withheld := zap.DebugLevel, zap.Skip()
	switch t.out.failure {
	case failure.Limit, failure.Logins, failure.NoUpstream:
		if ok, n := t.p.limitLog.allow(limitReason(t.out.err), time.Now()); ok {
			level = zap.WarnLevel
			if n > 0 {
				withheld = zap.Int64("withheld", n)
			}
		}
	case failure.Internal, failure.LocalAddress:
		level = zap.ErrorLevel
	}
	if c := t.p.logger.Check(level, "request failed"); c != nil {
		c.Write(
			zap.String("method", t.r.Method),
			zap.String("destination", t.target.String()),
			zap.String("remote", t.r.RemoteAddr),
			zap.String("blame", string(t.out.failure.Blame)),
			zap.String("reason", t.out.failure.Type),
			zap.Error(t.out.err),
			withheld)
	}
}

// quotedString writes s as an sf-string (RFC 8941 §3.3.3). Our own texts are
// ASCII; anything else is replaced.
func quotedString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
