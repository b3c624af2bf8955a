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
	if o.Attempts == 0 || o.Failure != nil && (o.Failure.Blame == failure.BlamePolicy || o.Failure == failure.Limit || o.Failure == failure.Dialing || o.Failure == failure.Holding || o.Failure == failure.Circuit || o.Failure == failure.NoNameCircuit) {
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
		{"auth_user", o.AuthUser},
		{"fallback_from", o.FallbackFrom},
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
	Hedges      int32      // of these: beside a slow one
	HedgeWon    bool       // it was one of them that served the request
	Reused      bool
	Status      uint16        // that the client was sent; 0 for none
	Queue       time.Duration // waited for a slot of a pool
	Dial        time.Duration
	TTFB        time.Duration
	Duration    time.Duration
	BytesUp     int64
	BytesDown   int64
	CloseReason string
	AuthFailure auth.Failure
	AuthUser    string // that a failed login has named, for people; see auth.Tried

	FallbackFrom string // the group that could not serve the request, which left over the fallback of its route
}

// Account takes the result of a tunnel into the outcome.
func (o *Outcome) Account(result relay.Result, start time.Time) {
	o.BytesUp += result.BytesUp // behind the body of a request that has asked for an upgrade
	o.BytesDown = result.BytesDown
	o.CloseReason = result.Reason.String()
	o.Duration = time.Since(start)
	o.Err = result.Err
	if f := BrokenBy(result.Reason); f != nil {
		o.Failure = f
	}
}

// BrokenBy is the failure with which a tunnel that was established has ended; nil where
// nothing has failed.
func BrokenBy(reason relay.Reason) *failure.Failure {
	switch reason {
	case relay.ReasonClientError:
		return failure.Canceled
	case relay.ReasonOriginError:
		return failure.Terminated
	}
	return nil
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
	case failure.Limit, failure.Dialing, failure.Holding, failure.ClientLogins, failure.Logins:
		return time.Second
	}
	return 0
}

// logFailure writes the one line that says why. What clients, policy and
// destinations do is Debug: it is in the access log as well. What the operator
// must look at is a Warn or an Error; of limits, of groups that are out and of failed logins,
// what is beyond one line a second for each is Debug too.
func (t *Request) logFailure() {
	limit := LimitOf(t.Outcome.Failure, t.Outcome.Err)
	t.Proxy.Limited.tell(limit, t.Client, time.Now())
	level, message := zap.DebugLevel, "request failed"
	var withheld int64
	switch t.Outcome.Failure {
	case failure.Limit, failure.Dialing, failure.Logins, failure.NoUpstream:
		level, withheld = t.sampled(zap.WarnLevel, message, limitReason(t.Outcome.Err))
	case failure.Auth:
		if t.Outcome.AuthUser != "" {
			message = "login failed"
			level, withheld = t.sampled(zap.InfoLevel, message, string(t.Outcome.AuthFailure))
		}
	case failure.Internal, failure.LocalAddress, failure.Interface:
		level = zap.ErrorLevel
	}
	c := t.Proxy.Logger.Check(level, message)
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("handler", t.Proxy.place()),
		zap.String("method", t.HTTP.Method),
		zap.String("destination", t.Target.String()),
		zap.String("remote", t.HTTP.RemoteAddr),
		zap.String("client", t.Client.IP()),
		zap.String("blame", string(t.Outcome.Failure.Blame)),
		zap.String("reason", t.Outcome.Failure.Type),
		zap.Error(t.Outcome.Err),
	}
	for _, f := range [...]struct{ key, value string }{
		{"user", t.Client.User()}, {"limit", limit},
		{"auth_error", string(t.Outcome.AuthFailure)}, {"auth_user", t.Outcome.AuthUser},
	} {
		if f.value != "" {
			fields = append(fields, zap.String(f.key, f.value))
		}
	}
	if withheld > 0 {
		fields = append(fields, zap.Int64("withheld", withheld))
	}
	c.Write(fields...)
}

// sampled returns the level of a line, of which there is one a second for each reason, and how
// many were withheld before it.
func (t *Request) sampled(level zapcore.Level, message, reason string) (zapcore.Level, int64) {
	ok, withheld := t.Proxy.Limited.allow(sample{level, message, reason}, t.Proxy.Logger, time.Now())
	if !ok {
		return zap.DebugLevel, 0
	}
	return level, withheld
}
