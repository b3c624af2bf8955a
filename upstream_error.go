package egress

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// errUpstreamFull is an upstream that got its last tunnel just now.
var errUpstreamFull = errors.New("upstream.max_tunnels is reached")

// upstreamError is an attempt through an upstream that has failed.
type upstreamError struct {
	upstream string
	verdict  verdict
	sent     bool // the upstream may have acted on the request
	stale    bool // the connection ended before any byte of an answer
	final    bool // the attempt has got as far as the origin
	err      error
}

func (e *upstreamError) Error() string   { return e.upstream + ": " + e.err.Error() }
func (e *upstreamError) Unwrap() []error { return []error{e.verdict.failure, e.err} }

// ownFault reports whether it was the upstream that could not serve the request, be
// it only that our own limits for it are reached.
func (e *upstreamError) ownFault() bool {
	switch e.verdict.kind {
	case health.ConnectFailure, health.Failure, health.AuthFault, health.Overload:
		return true
	}
	switch e.verdict.failure {
	case failure.UpstreamGateway, failure.UpstreamSilent, failure.UpstreamLimit, failure.UpstreamAuth:
		return true
	}
	return failure.IsLimit(e.err)
}

// elsewhere reports whether another upstream might do better.
func (e *upstreamError) elsewhere() bool {
	switch e.verdict.failure {
	case failure.Canceled, failure.UpstreamDenied, failure.Loop, failure.Internal, failure.Target, failure.FieldsSize:
		return false
	}
	return e.verdict.kind != health.Cancelled
}

// judgeTunnel judges an attempt to open a tunnel through an upstream.
func judgeTunnel(ctx context.Context, err error) verdict {
	if err == nil {
		return verdictSuccess
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return verdict{kind: health.Cancelled, failure: failure.Canceled}
	}
	e, ok := errors.AsType[*proxydial.Error](err)
	if !ok {
		return verdict{kind: health.Neutral, failure: failure.Of(err)} // not the upstream's doing: a name that we could not resolve
	}
	if v, ok := judgeOwnLimit(err); ok {
		return v
	}
	if e.Stage == proxydial.StageAuth {
		return verdict{kind: health.AuthFault, failure: failure.UpstreamAuth}
	}
	if reply, ok := errors.AsType[*proxydial.ReplyError](err); ok {
		return judgeReply(&reply.Reply)
	}
	if socks, ok := errors.AsType[*proxydial.SOCKSError](err); ok {
		return judgeSOCKS(socks.Code)
	}
	return judgeStage(e)
}

// judgeOwnLimit finds out whether it was this machine that could not go on.
func judgeOwnLimit(err error) (verdict, bool) {
	if failure.IsAny(err, syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL) && !failure.NoIPv6(err) || errors.Is(err, dnscache.ErrNoTurn) {
		return verdict{kind: health.Neutral, failure: failure.Limit}, true
	}
	if errors.Is(err, failure.Loop) {
		return verdict{kind: health.ConnectFailure, failure: failure.Loop}, true
	}
	return verdict{}, false
}

// judgeStage judges an attempt that got no answer.
func judgeStage(e *proxydial.Error) verdict {
	malformed, isMalformed := errors.AsType[*proxydial.MalformedError](e)
	switch {
	case e.Retryable:
		return verdict{kind: health.Neutral, failure: failure.UpstreamTerminated}
	case e.Stage == proxydial.StageDial && e.Timeout():
		return verdict{kind: health.ConnectFailure, failure: failure.UpstreamTimeout}
	case e.Stage <= proxydial.StageProxyProtocol:
		return verdict{kind: health.ConnectFailure, failure: failure.UpstreamConnect}
	case e.Stage == proxydial.StageTLS && e.Timeout():
		return verdict{kind: health.ConnectFailure, failure: failure.UpstreamTimeout}
	case e.Stage == proxydial.StageTLS:
		return verdict{kind: health.ConnectFailure, failure: failure.UpstreamTLS}
	case e.Stage == proxydial.StageAuth:
		return verdict{kind: health.AuthFault, failure: failure.UpstreamAuth}
	case e.Timeout() && e.Stage == proxydial.StageReply:
		return verdict{kind: health.ReplyTimeout, failure: failure.UpstreamSilent}
	case e.Timeout():
		return verdict{kind: health.ConnectFailure, failure: failure.UpstreamTimeout}
	case isMalformed && malformed != nil:
		return verdict{kind: health.Failure, failure: failure.UpstreamProtocol}
	case errors.Is(e, io.EOF), errors.Is(e, io.ErrUnexpectedEOF), errors.Is(e, syscall.ECONNRESET), errors.Is(e, syscall.EPIPE):
		// There are proxies that close where they cannot reach the destination.
		return verdict{kind: health.Failure, failure: failure.UpstreamTerminated, relayed: e.Stage == proxydial.StageReply}
	}
	return verdict{kind: health.Failure, failure: failure.UpstreamProtocol}
}

// judgeSOCKS judges a refusal of a SOCKS5 upstream (RFC 1928 §6). That a network or
// a host is unreachable may be the fault of its own uplink.
func judgeSOCKS(code proxydial.SOCKSCode) verdict {
	switch code {
	case proxydial.SOCKSNotAllowed:
		return verdict{kind: health.Success, failure: failure.UpstreamDenied}
	case proxydial.SOCKSRefused:
		return verdict{kind: health.Success, failure: failure.Refused}
	case proxydial.SOCKSGeneralFailure, proxydial.SOCKSNetUnreachable, proxydial.SOCKSHostUnreachable, proxydial.SOCKSTTLExpired:
		return verdict{kind: health.SoftFail, failure: failure.UpstreamGateway}
	case proxydial.SOCKSNoMethod, proxydial.SOCKSBadCredentials:
		return verdict{kind: health.AuthFault, failure: failure.UpstreamAuth}
	}
	return verdict{kind: health.Failure, failure: failure.UpstreamProtocol}
}
