// Package tracing records what becomes of a request as child spans of the span that its
// context carries: that of Caddy's `tracing` directive. It knows OpenTelemetry's names and
// nothing of requests.
//
// Where the span of the context is not recorded, because tracing is off or the trace is not
// sampled, nothing is begun: a Span is its zero value then, and all that is done with it
// costs a comparison. Only Start looks the span up in the context.
//
// A span may end after its parent has: a dial may outlive its request, and serve another
// one. None begins after that.
//
// What a span is told must hold no credentials, sessions or query strings.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package tracing
