package tracing

import (
	"context"
	"encoding/hex"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// The fields of W3C Trace Context, in canonical form.
const (
	ParentField = "Traceparent"
	StateField  = "Tracestate"
)

// A traceparent is version, trace, span and flags, in hexadecimal with a dash between them.
const (
	traceAt, spanAt, spanEnd = 3, 36, 52
	minParent                = 55
)

// Parent is what a traceparent field becomes where it leaves under this span: where it is
// of the same trace, it names the span. One of another trace, which the configuration may
// have set, or one that is none, is left alone.
func (s Span) Parent(received string) string {
	if s.span == nil || len(received) < minParent {
		return received
	}
	c := s.span.SpanContext()
	if !names(c, received) {
		return received
	}
	id := c.SpanID()
	return received[:spanAt] + hex.EncodeToString(id[:]) + received[spanEnd:]
}

// BegunAnew reports whether the trace that ctx is in, and that a traceparent names, does not go
// on with the trace of a client: theirs was none, or nobody has told of one. What a client has
// said of its state is of no trace then (W3C Trace Context, section 3.3.1).
func BegunAnew(ctx context.Context, parent string) bool {
	c := trace.SpanContextFromContext(ctx)
	return c.IsValid() && c.TraceState().Len() == 0 && len(parent) >= minParent && names(c, parent)
}

// names reports whether a traceparent is of the trace of c.
func names(c trace.SpanContext, parent string) bool {
	id := c.TraceID()
	return slices.Equal([]byte(parent[traceAt:spanAt-1]), hex.AppendEncode(nil, id[:]))
}
