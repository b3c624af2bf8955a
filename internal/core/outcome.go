package core

import (
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
)

// Path is how the request left: empty where it did not.
func (o *Outcome) Path() string {
	if o.Attempts > 0 && o.Upstream != "" {
		return "upstream"
	}
	if o.Attempts == 0 || o.Failure != nil && (o.Failure.Blame == failure.BlamePolicy || o.Failure == failure.Limit || o.Failure == failure.Holding || o.Failure == failure.Circuit) {
		return ""
	}
	return "direct"
}

// RemoteIP is the address that was dialed; empty for none.
func (o *Outcome) RemoteIP() string {
	if !o.Remote.IsValid() {
		return ""
	}
	return o.Remote.String()
}

// Blame is whom a failure is charged to.
func (o *Outcome) Blame() failure.Blame {
	if o.Failure == nil {
		return failure.BlameNobody
	}
	return o.Failure.Blame
}

// Reason is what failed, as an error type of RFC 9209; empty on success.
func (o *Outcome) Reason() string {
	if o.Failure == nil {
		return ""
	}
	return o.Failure.Type
}

// MarshalLogObject writes the outcome into a log line. Durations are in seconds,
// as Caddy's own.
func (o *Outcome) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if path := o.Path(); path != "" {
		enc.AddString("path", path)
		enc.AddInt32("attempts", o.Attempts)
		enc.AddBool("reused", o.Reused)
	}
	if o.Group != "" {
		enc.AddString("group", o.Group)
	}
	if o.Upstream != "" {
		enc.AddString("upstream", o.Upstream)
	}
	if ip := o.RemoteIP(); ip != "" {
		enc.AddString("remote_ip", ip)
	}
	if o.Dial > 0 {
		enc.AddFloat64("dial_duration", o.Dial.Seconds())
	}
	if o.TTFB > 0 {
		enc.AddFloat64("ttfb", o.TTFB.Seconds())
	}
	enc.AddFloat64("duration", o.Duration.Seconds())
	enc.AddInt64("bytes_up", o.BytesUp)
	enc.AddInt64("bytes_down", o.BytesDown)
	for _, f := range [...]struct{ key, value string }{
		{"close_reason", o.CloseReason},
		{"blame", string(o.Blame())},
		{"reason", o.Reason()},
		{"auth_error", string(o.AuthFailure)},
	} {
		if f.value != "" {
			enc.AddString(f.key, f.value)
		}
	}
	if o.Err != nil {
		enc.AddString("error", o.Err.Error())
	}
	return nil
}

// Outcome is how a request ended and what it took. The access log, the
// placeholders, the client's answer and passive health read this one value.
type Outcome struct {
	Failure *failure.Failure // nil on success
	Err     error            // the error behind failure

	Group       string     // of upstreams; empty for a direct path
	Upstream    string     // of the last attempt, without credentials
	Remote      netip.Addr // that was dialed
	Attempts    int32      // connections that were tried
	Reused      bool
	Dial        time.Duration
	TTFB        time.Duration
	Duration    time.Duration
	BytesUp     int64
	BytesDown   int64
	CloseReason string
	AuthFailure auth.Failure
}

// Account takes the result of a tunnel into the outcome.
func (o *Outcome) Account(result relay.Result, start time.Time) {
	o.BytesUp, o.BytesDown = result.BytesUp, result.BytesDown
	o.CloseReason = result.Reason.String()
	o.Duration = time.Since(start)
	o.Err = result.Err
	switch result.Reason {
	case relay.ReasonClientError:
		o.Failure = failure.Canceled
	case relay.ReasonOriginError:
		o.Failure = failure.Terminated
	}
}

// Conclude accounts for the request, which is over: it has failed with err, if with any.
// It is the last step behind every door.
func (t *Request) Conclude(err error) {
	t.Outcome.Duration = time.Since(t.Start)
	if err == nil {
		return
	}
	t.Outcome.Err, t.Outcome.Failure = err, failure.Of(err)
	if t.HTTP.Context().Err() != nil {
		t.Outcome.Failure = failure.Canceled
	}
	t.logFailure()
}

// RetryAfter is when the client may try again, 0 where nothing is known.
func RetryAfter(err error) time.Duration {
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
func (t *Request) logFailure() {
	level, withheld := zap.DebugLevel, zap.Skip()
	switch t.Outcome.Failure {
	case failure.Limit, failure.Logins, failure.NoUpstream:
		if ok, n := t.Proxy.Limited.allow(limitReason(t.Outcome.Err), time.Now()); ok {
			level = zap.WarnLevel
			if n > 0 {
				withheld = zap.Int64("withheld", n)
			}
		}
	case failure.Internal, failure.LocalAddress:
		level = zap.ErrorLevel
	}
	if c := t.Proxy.Logger.Check(level, "request failed"); c != nil {
		c.Write(
			zap.String("method", t.HTTP.Method),
			zap.String("destination", t.Target.String()),
			zap.String("remote", t.HTTP.RemoteAddr),
			zap.String("blame", string(t.Outcome.Failure.Blame)),
			zap.String("reason", t.Outcome.Failure.Type),
			zap.Error(t.Outcome.Err),
			withheld)
	}
}
