package tracing

import (
	"context"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of our spans.
const scope = "github.com/caddy-egress/egress"

// Canceled is the error.type of what nobody waits for any more. It is no error.
const Canceled = "canceled"

// Span is a span under way; the zero value is none. Its methods may be called from any
// goroutine.
type Span struct{ span trace.Span }

// Start begins a span as a child of the one of ctx, if that is recorded. What is done with
// the context that it returns is a child of the new one.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

// StartClient is Start for what asks something of another server.
func StartClient(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindClient)
}

func start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, span := tracerOf(parent).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

// On reports whether a span that is begun with ctx would be recorded.
func On(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Past records a span that is over already.
func Past(ctx context.Context, name string, begun, ended time.Time) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	_, span := tracerOf(parent).Start(ctx, name, trace.WithTimestamp(begun))
	span.End(trace.WithTimestamp(ended))
}

func tracerOf(s trace.Span) trace.Tracer { return s.TracerProvider().Tracer(scope) }

// On reports whether there is a span.
func (s Span) On() bool { return s.span != nil }

// End ends the span. Only the first call counts.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}

// Fail notes what has failed, by its word.
func (s Span) Fail(word string) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(semconv.ErrorTypeKey.String(word))
	if word != Canceled {
		s.span.SetStatus(codes.Error, word)
	}
}

// TraceID is the trace that the span belongs to; empty without a span.
func (s Span) TraceID() string {
	if s.span == nil {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// Event notes that something has happened now.
func (s Span) Event(name string) {
	if s.span != nil {
		s.span.AddEvent(name)
	}
}

// Set notes a text, unless it is empty.
func (s Span) Set(key Key, value string) {
	if s.span != nil && value != "" {
		s.span.SetAttributes(attribute.Key(key).String(value))
	}
}

// SetInt notes a number, unless it is 0.
func (s Span) SetInt(key Key, n int64) {
	if s.span != nil && n != 0 {
		s.span.SetAttributes(attribute.Key(key).Int64(n))
	}
}

// Server notes which server is asked, by its name or address.
func (s Span) Server(host string, port uint16) {
	s.Set(ServerAddress, host)
	s.SetInt(ServerPort, int64(port))
}

// Peer notes the address that is connected to, if it is known.
func (s Span) Peer(addr netip.Addr, port uint16) {
	if s.span == nil || !addr.IsValid() {
		return
	}
	s.Set(PeerAddress, addr.String())
	s.SetInt(PeerPort, int64(port))
}

// Method notes the method of a request. One that is not known may be anything that a
// client has made up.
func (s Span) Method(method string) {
	if s.span == nil {
		return
	}
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY":
	default:
		method = "_OTHER"
	}
	s.span.SetAttributes(semconv.HTTPRequestMethodKey.String(method))
}

// Key names an attribute of a span.
type Key string

// Attributes, by OpenTelemetry's semantic conventions where they have a name.
const (
	Status        = Key(semconv.HTTPResponseStatusCodeKey)
	ResendCount   = Key(semconv.HTTPRequestResendCountKey)
	ServerAddress = Key(semconv.ServerAddressKey)
	ServerPort    = Key(semconv.ServerPortKey)
	PeerAddress   = Key(semconv.NetworkPeerAddressKey)
	PeerPort      = Key(semconv.NetworkPeerPortKey)
	Question      = Key(semconv.DNSQuestionNameKey)

	Path        = Key("egress.path")
	Group       = Key("egress.group")
	Upstream    = Key("egress.upstream") // without credentials
	CloseReason = Key("egress.close_reason")
	BytesUp     = Key("egress.bytes_up")
	BytesDown   = Key("egress.bytes_down")
)
