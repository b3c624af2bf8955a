package core

import (
	"cmp"
	"context"
	"errors"
	"net"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tracing"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the spans of a request: one for each attempt, below which are those
// of what the attempt does to get a connection, and one for each connection through an
// upstream.

// traced is the span of the current attempt. It is the zero value where tracing is off.
type traced struct {
	tracing.Span
	ctx   context.Context // of the request, with the span; nil without
	spans int64           // of attempts, with this one
}

// context is that of the request, within the current attempt.
func (t *Request) context() context.Context {
	if t.traced.ctx != nil {
		return t.traced.ctx
	}
	return t.HTTP.Context()
}

// beginSpan begins the span of an attempt.
func (t *Request) beginSpan() {
	name := "egress.exchange"
	if t.Use == upstream.Tunnel {
		name = "egress.tunnel"
	}
	before := t.traced.spans
	ctx, span := tracing.StartClient(t.HTTP.Context(), name)
	if !span.On() {
		t.traced = traced{}
		return
	}
	t.traced = traced{span, ctx, before + 1}
	span.Server(t.Target.Host, t.Target.Port)
	if t.Use != upstream.Tunnel {
		span.Method(t.HTTP.Method)
		span.SetInt(tracing.ResendCount, before)
	}
}

// endSpan ends the span of an attempt that has ended with err, if with any. That of a
// tunnel that stands ends with it.
func (t *Request) endSpan(err error) {
	s := t.traced.Span
	if !s.On() {
		return
	}
	path := "upstream"
	if t.Ways.Current.Direct() {
		path = "direct"
	}
	s.Set(tracing.Path, path)
	s.Set(tracing.Group, t.Outcome.Group)
	if !t.Ways.Current.Direct() {
		s.Set(tracing.Upstream, t.Ways.Current.Name)
	}
	switch {
	case err != nil && t.clientGone():
		s.Fail(tracing.Canceled)
	case err != nil:
		s.Fail(spanWord(failure.Of(err)))
	case t.Outcome.Failure != nil:
		s.Fail(spanWord(t.Outcome.Failure))
	case t.Use == upstream.Tunnel:
		return
	}
	s.End()
}

// spanWord is the error.type of a failure.
func spanWord(f *failure.Failure) string { return cmp.Or(f.Type, tracing.Canceled) }

// TracePeer notes in the span of the attempt what its connection leads to.
func (t *Request) TracePeer() {
	if !t.traced.On() {
		return
	}
	port := t.Target.Port
	if a := &t.Ways.Current; !a.Direct() {
		port = a.Spec.Addr.Port
	}
	t.traced.Peer(t.Outcome.Remote, port)
}

// TraceHead notes that the final head of the response has come.
func (t *Request) TraceHead(status int) {
	t.traced.SetInt(tracing.Status, int64(status))
	t.traced.Event("egress.response_head")
}

// TraceParent is what a traceparent of the request becomes where it leaves with the
// current attempt.
func (t *Request) TraceParent(received string) string { return t.traced.Parent(received) }

// HidesTrace reports whether a field of the client's trace stays here: all do where the operator
// wants that, and the state of a trace that `tracing` has replaced.
func (t *Request) HidesTrace(name string) bool {
	switch name {
	case tracing.ParentField:
		return t.Proxy.HideTrace
	case tracing.StateField:
		return t.Proxy.HideTrace || len(t.HTTP.Header[name]) > 0 && tracing.BegunAnew(t.HTTP.Context(), t.HTTP.Header.Get(tracing.ParentField))
	}
	return false
}

// TraceID is the trace that the last attempt belongs to; empty where there is none that is
// recorded.
func (t *Request) TraceID() string { return t.traced.TraceID() }

// startConnect begins the span of a connection to or through an upstream.
func startConnect(ctx context.Context, m *upstream.Member) (context.Context, tracing.Span) {
	ctx, span := tracing.StartClient(ctx, "egress.upstream_connect")
	if span.On() {
		span.Set(tracing.Group, m.Group.Name)
		span.Set(tracing.Upstream, m.Name)
		span.Server(cmp.Or(m.Spec.Addr.Host, m.Spec.Addr.Socket), m.Spec.Addr.Port)
	}
	return ctx, span
}

// endConnect ends the span of a connection to an upstream. ctx is what the connection was
// to be made within, without the limit of the attempt.
func endConnect(ctx context.Context, s tracing.Span, m *upstream.Member, conn net.Conn, err error) {
	switch {
	case !s.On():
		return
	case err != nil:
		if reply, ok := errors.AsType[*proxydial.ReplyError](err); ok {
			s.SetInt(tracing.Status, int64(reply.Status))
		}
		s.Fail(spanWord(m.JudgeTunnel(ctx, err).Failure))
	default:
		s.Peer(dial.RemoteAddr(conn), m.Spec.Addr.Port)
	}
	s.End()
}

// dialTunnel opens a tunnel through an upstream, as a span.
func dialTunnel(ctx, limited context.Context, m *upstream.Member, to towards, client proxydial.Client) (*proxydial.Tunnel, error) {
	limited, span := startConnect(limited, m)
	if !span.On() {
		return m.DialTunnel(limited, to.Target, to.told, client)
	}
	if m.SpeaksHTTP() {
		span.Method("CONNECT")
	}
	to.Header = underSpan(to.Header, span)
	tunnel, err := m.DialTunnel(limited, to.Target, to.told, client)
	if err != nil {
		endConnect(ctx, span, m, nil, err)
		return nil, err
	}
	span.SetInt(tracing.Status, int64(tunnel.Reply.Status))
	endConnect(ctx, span, m, tunnel.Conn, nil)
	return tunnel, nil
}

// underSpan are the fields of a CONNECT, of which traceparent names the span.
func underSpan(fields []h1.Field, span tracing.Span) []h1.Field {
	under := make([]h1.Field, len(fields))
	for i, f := range fields {
		if f.Name == tracing.ParentField {
			f.Value = span.Parent(f.Value)
		}
		under[i] = f
	}
	return under
}

// begin tells who records that the tunnel stands, and returns what is to be called at its
// end. It holds nothing of the request.
func (t *Tunnel) begin() (ended func(relay.Result)) {
	recorded, span := t.r.recordTunnel(), t.span
	t.span = tracing.Span{}
	if !span.On() {
		return recorded
	}
	span.Event("egress.established")
	return func(result relay.Result) {
		endTunnelSpan(span, result)
		recorded(result)
	}
}

// endTunnelSpan ends the span of a tunnel that has stood.
func endTunnelSpan(s tracing.Span, result relay.Result) {
	s.SetInt(tracing.BytesUp, result.BytesUp)
	s.SetInt(tracing.BytesDown, result.BytesDown)
	s.Set(tracing.CloseReason, result.Reason.String())
	if f := BrokenBy(result.Reason); f != nil {
		s.Fail(spanWord(f))
	}
	s.End()
}

// dropSpan ends the span of a tunnel that its client does not get.
func (t *Tunnel) dropSpan() {
	t.span.Fail(tracing.Canceled)
	t.span.End()
}
