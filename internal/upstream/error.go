package upstream

import (
	"cmp"
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// ErrFull is an upstream that got its last tunnel just now.
var ErrFull = errors.New("upstream.max_tunnels is reached")

// Error is an attempt through an upstream that has failed.
type Error struct {
	Upstream string  // without credentials
	Verdict  Verdict // what that says
	Sent     bool    // the upstream may have acted on the request
	Stale    bool    // the connection ended before any byte of an answer
	Final    bool    // the attempt has got as far as the origin
	Err      error
}

func (e *Error) Error() string   { return e.Upstream + ": " + e.Err.Error() }
func (e *Error) Unwrap() []error { return []error{e.Verdict.Failure, e.Err} }

// OwnFault reports whether it was the upstream that could not serve the request, be
// it only that our own limits for it are reached.
func (e *Error) OwnFault() bool {
	switch e.Verdict.Kind {
	case health.ConnectFailure, health.Failure, health.AuthFault, health.Overload:
		return true
	}
	return IsOwnFault(e.Verdict.Failure) || failure.IsLimit(e.Err)
}

// Forbids reports whether an attempt to open a tunnel was refused by what the member allows us,
// which a 407 may say as well as a 403.
func (m *Member) Forbids(v *Verdict, destination uint64) bool {
	return v.Kind == health.AuthFault && !v.Login && m.Health.Forbids(time.Now(), destination)
}

// IsOwnFault reports whether a failure may be an upstream's own, so that a fallback past it
// does better.
func IsOwnFault(f *failure.Failure) bool {
	switch f {
	case failure.UpstreamGateway, failure.UpstreamSilent, failure.UpstreamPath, failure.UpstreamLimit, failure.UpstreamAuth, failure.UpstreamChallenge:
		return true
	}
	return false
}

// Elsewhere reports whether another upstream might do better.
func (e *Error) Elsewhere() bool {
	switch e.Verdict.Failure {
	case failure.Canceled, failure.UpstreamDenied, failure.Loop, failure.Internal, failure.Target, failure.FieldsSize:
		return false
	}
	return e.Verdict.Kind != health.Cancelled
}

// judgeTunnel judges an attempt to open a tunnel through an upstream that nothing is known of.
func judgeTunnel(ctx context.Context, err error) Verdict {
	if err == nil {
		return Stands
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return Verdict{Kind: health.Cancelled, Failure: failure.Canceled}
	}
	e, ok := errors.AsType[*proxydial.Error](err)
	if !ok {
		return Verdict{Kind: health.Neutral, Failure: failure.Of(err), Unsent: true} // a name that we could not resolve
	}
	if v, ok := judgeOwnLimit(err); ok {
		return v
	}
	if e.Stage == proxydial.StageAuth {
		_, answered := errors.AsType[*proxydial.ReplyError](err)
		return Verdict{Kind: health.AuthFault, Failure: failure.UpstreamAuth, Login: !answered}
	}
	if reply, ok := errors.AsType[*proxydial.ReplyError](err); ok {
		return judgeReply(&reply.Reply)
	}
	if socks, ok := errors.AsType[*proxydial.SOCKSError](err); ok {
		v := judgeSOCKS(socks.Code)
		v.LoggedIn = v.Kind != health.AuthFault
		return v
	}
	v := judgeStage(e)
	v.Question = dnscache.QuestionOf(err)
	return v
}

// JudgeTunnel judges an attempt to open a tunnel through the member. A challenge of one that
// is sent no credentials is told as such; and what goes wrong behind a PROXY protocol header
// may be for the client that it names.
func (m *Member) JudgeTunnel(ctx context.Context, err error) Verdict {
	v := judgeTunnel(ctx, err)
	if _, answered := errors.AsType[*proxydial.ReplyError](err); answered && v.Kind == health.AuthFault && !m.Authenticates() {
		v.Failure = failure.UpstreamChallenge
	}
	if _, one := errors.AsType[*familyError](err); one && mayBeFamily(v) {
		return Verdict{Kind: health.Neutral, Failure: cmp.Or(ofFamily[v.Failure], v.Failure), LoggedIn: v.LoggedIn}
	}
	if e, ok := errors.AsType[*proxydial.Error](err); ok && m.Spec.ProxyProtocol != "" && e.Stage > proxydial.StageProxyProtocol &&
		(v.Kind == health.ConnectFailure || v.Kind == health.Failure) {
		v.Kind, v.Relayed = health.Failure, true
	}
	return v
}

// ofFamily is what failures are called of which only the address family is known to be the
// reason: an upstream that closes does so for that.
var ofFamily = map[*failure.Failure]*failure.Failure{failure.UpstreamTerminated: failure.UpstreamGateway, failure.UpstreamProtocol: failure.UpstreamGateway}

// judgeOwnLimit finds out whether it was this machine that could not go on.
func judgeOwnLimit(err error) (Verdict, bool) {
	if failure.IsAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL) && !failure.NoIPv6(err) || errors.Is(err, dnscache.ErrNoTurn) {
		return Verdict{Kind: health.Neutral, Failure: failure.Limit, Unsent: true}, true
	}
	if errors.Is(err, dnscache.ErrHostsFile) {
		return Verdict{Kind: health.Neutral, Failure: failure.Internal}, true
	}
	if errors.Is(err, failure.Loop) {
		return Verdict{Kind: health.ConnectFailure, Failure: failure.Loop}, true
	}
	return Verdict{}, false
}

// judgeStage judges an attempt that got no answer.
func judgeStage(e *proxydial.Error) Verdict {
	malformed, isMalformed := errors.AsType[*proxydial.MalformedError](e)
	switch {
	case e.Retryable:
		return Verdict{Kind: health.Neutral, Failure: failure.UpstreamTerminated}
	case e.Stage == proxydial.StageDial && e.Timeout():
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamTimeout}
	case e.Stage <= proxydial.StageProxyProtocol:
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamConnect}
	case e.Stage == proxydial.StageTLS && e.Timeout():
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamTLSTimeout}
	case e.Stage == proxydial.StageTLS && failure.Of(e) == failure.Certificate:
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamCertificate}
	case e.Stage == proxydial.StageTLS:
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamTLS}
	case e.Timeout() && e.Stage == proxydial.StageReply:
		return Verdict{Kind: health.ReplyTimeout, Failure: failure.UpstreamSilent}
	case e.Timeout():
		return Verdict{Kind: health.ConnectFailure, Failure: failure.UpstreamTimeout}
	case isMalformed && malformed != nil:
		return Verdict{Kind: health.Failure, Failure: failure.UpstreamProtocol}
	case errors.Is(e, io.EOF), errors.Is(e, io.ErrUnexpectedEOF), errors.Is(e, syscall.ECONNRESET), errors.Is(e, syscall.EPIPE), isStreamEnd(e):
		// There are proxies that close where they cannot reach the destination.
		return Verdict{Kind: health.Failure, Failure: failure.UpstreamTerminated, Relayed: e.Stage == proxydial.StageReply}
	}
	// A stream is reset for what the request says as well, in which the client has a part.
	reset, ok := errors.AsType[*proxydial.StreamError](e)
	clients := ok && (reset.Code == http2.ErrCodeProtocol || reset.Code == http2.ErrCodeCompression)
	return Verdict{Kind: health.Failure, Failure: failure.UpstreamProtocol, Relayed: clients}
}

// isStreamEnd reports whether the upstream has reset the stream of the request, which over
// HTTP/2 is the end of its connection (CONNECT_ERROR, RFC 9113 §8.5), and not for something
// that it says we have done wrong.
func isStreamEnd(err error) bool {
	reset, ok := errors.AsType[*proxydial.StreamError](err)
	if !ok {
		return false
	}
	switch reset.Code {
	case http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeSettingsTimeout, http2.ErrCodeFrameSize,
		http2.ErrCodeCompression, http2.ErrCodeInadequateSecurity, http2.ErrCodeHTTP11Required:
		return false
	}
	return true
}

// judgeSOCKS judges a refusal of a SOCKS5 upstream (RFC 1928 §6). That a network or
// a host is unreachable may be the fault of its own uplink. All but one of the other codes
// hang on the destination as well: it may have no address of a type that the upstream
// knows (8), and the codes of Tor (X'F0' to X'F7') tell of onion services.
func judgeSOCKS(code proxydial.SOCKSCode) Verdict {
	switch code {
	case proxydial.SOCKSNotAllowed:
		return Verdict{Kind: health.Success, Failure: failure.UpstreamDenied}
	case proxydial.SOCKSRefused:
		return named(failure.Refused)
	case proxydial.SOCKSNoMethod, proxydial.SOCKSBadCredentials:
		return Verdict{Kind: health.AuthFault, Failure: failure.UpstreamAuth, Login: true}
	case proxydial.SOCKSCommandNotSupported:
		return Verdict{Kind: health.Failure, Failure: failure.UpstreamProtocol} // it does not know CONNECT
	}
	return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}
}
