package tracing

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// record returns a context with the span of a request, and what was recorded.
func record(t testing.TB, sampler sdk.Sampler) (context.Context, trace.Span, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder), sdk.WithSampler(sampler))
	ctx, server := provider.Tracer("test").Start(t.Context(), "server")
	return ctx, server, recorder
}

// everything does all that can be done with a span.
func everything(ctx context.Context) {
	ctx, s := StartClient(ctx, "egress.exchange")
	s.Method("GET")
	s.Server("some.test", 443)
	s.Peer(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 443)
	s.SetInt(Status, 502)
	s.SetInt(ResendCount, 0)
	s.Set(Upstream, "")
	s.Event("head")
	_ = s.Parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	_, inner := Start(ctx, "egress.dial")
	inner.Fail(Canceled)
	inner.End()
	s.Fail("connection_terminated")
	s.End()
}

func TestSpan(t *testing.T) {
	ctx, server, recorder := record(t, sdk.AlwaysSample())
	everything(ctx)
	spans := recorder.Ended()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	inner, s := spans[0], spans[1]
	if s.Parent().SpanID() != server.SpanContext().SpanID() || inner.Parent().SpanID() != s.SpanContext().SpanID() {
		t.Error("the spans are children of others")
	}
	if s.Name() != "egress.exchange" || s.SpanKind() != trace.SpanKindClient || s.InstrumentationScope().Name != scope {
		t.Errorf("%s, %v, %v", s.Name(), s.SpanKind(), s.InstrumentationScope())
	}
	if s.Status().Code != codes.Error || inner.Status().Code != codes.Unset {
		t.Errorf("status %v, and %v where nobody waits", s.Status(), inner.Status())
	}
	want := attribute.NewSet(
		attribute.String("http.request.method", "GET"), attribute.String("server.address", "some.test"),
		attribute.Int("server.port", 443), attribute.String("network.peer.address", "192.0.2.1"),
		attribute.Int("network.peer.port", 443), attribute.Int("http.response.status_code", 502),
		attribute.String("error.type", "connection_terminated"))
	if got := attribute.NewSet(s.Attributes()...); !got.Equals(&want) {
		t.Errorf("attributes %v", s.Attributes())
	}
}

// A method may be anything that a client makes up.
func TestSpan_Method(t *testing.T) {
	ctx, _, recorder := record(t, sdk.AlwaysSample())
	_, s := Start(ctx, "a")
	s.Method("SECRET")
	s.End()
	if got := recorder.Ended()[0].Attributes()[0].Value.AsString(); got != "_OTHER" {
		t.Errorf("method %q", got)
	}
}

func TestSpan_Parent(t *testing.T) {
	ctx, server, _ := record(t, sdk.AlwaysSample())
	_, s := Start(ctx, "a")
	id, trace := s.span.SpanContext().SpanID().String(), server.SpanContext().TraceID().String()
	for _, tc := range []struct{ received, want string }{
		{"00-" + trace + "-" + server.SpanContext().SpanID().String() + "-01", "00-" + trace + "-" + id + "-01"},
		{"cc-" + trace + "-00f067aa0ba902b7-01-more", "cc-" + trace + "-" + id + "-01-more"},
		{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{"00-" + trace, "00-" + trace},
		{"ours", "ours"},
		{"", ""},
	} {
		if got := s.Parent(tc.received); got != tc.want {
			t.Errorf("%q becomes %q, want %q", tc.received, got, tc.want)
		}
		if got := (Span{}).Parent(tc.received); got != tc.received {
			t.Errorf("without a span, %q becomes %q", tc.received, got)
		}
	}
}

func TestPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, _, recorder := record(t, sdk.AlwaysSample())
		begun := time.Now()
		time.Sleep(time.Second)
		ended := time.Now()
		time.Sleep(time.Second)
		Past(ctx, "egress.queue", begun, ended)
		if s := recorder.Ended()[0]; !s.StartTime().Equal(begun) || !s.EndTime().Equal(ended) {
			t.Errorf("from %v to %v", s.StartTime(), s.EndTime())
		}
	})
}

// A span may end when its parent has; none begins then.
func TestSpan_Outlives(t *testing.T) {
	ctx, server, recorder := record(t, sdk.AlwaysSample())
	ctx, s := Start(context.WithoutCancel(ctx), "egress.dial")
	server.End()
	s.End()
	if _, late := Start(ctx, "egress.dns"); late.On() || On(ctx) {
		t.Error("a span has begun below one that was over")
	}
	if n := len(recorder.Ended()); n != 2 {
		t.Errorf("%d spans, want 2", n)
	}
}

// off are the contexts in which nothing is recorded.
func off(t testing.TB) map[string]context.Context {
	unsampled, _, _ := record(t, sdk.NeverSample())
	return map[string]context.Context{"off": deep(t.Context()), "not sampled": deep(unsampled)}
}

// deep puts as many values into a context as Caddy's has.
func deep(ctx context.Context) context.Context {
	type key int
	for i := range 12 {
		ctx = context.WithValue(ctx, key(i), i)
	}
	return ctx
}

func TestOffCostsNothing(t *testing.T) {
	for name, ctx := range off(t) {
		if n := testing.AllocsPerRun(100, func() { everything(ctx); Past(ctx, "a", time.Time{}, time.Time{}) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkOff(b *testing.B) {
	for name, ctx := range off(b) {
		b.Run(name+"/start", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, s := StartClient(ctx, "egress.exchange")
				s.End()
			}
		})
		b.Run(name+"/all", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				everything(ctx)
			}
		})
	}
}
