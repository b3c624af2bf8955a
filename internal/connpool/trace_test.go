package connpool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Who waits for a slot has a span of that, which ends when there is one: also where it is
// dialed with, where the connection of another request is taken, and where nobody waits any
// more. Who need not wait has none.
func TestWaitIsTraced(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1; c.PendingTimeout = 3 * time.Second }), func(t *testing.T, p *testPool, f *farm) {
		recorder := tracetest.NewSpanRecorder()
		ctx, _ := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test").Start(t.Context(), "request")
		slow := func(context.Context) (*conn, error) {
			time.Sleep(time.Minute) // of the dial: it is no wait
			return f.dial("k")(ctx)
		}
		take := func() *testLease {
			l, err := p.Get(ctx, "k", wants[*conn]{Dial: slow}.req())
			if err != nil {
				t.Error(err)
			}
			return l
		}
		l := take()
		wantWaits(t, recorder)

		for i, end := range []func(){l.Discard, func() { l.Release(0) }} {
			done := make(chan struct{})
			go func() { l = take(); close(done) }()
			time.Sleep(time.Duration(i+1) * time.Second)
			end()
			<-done
		}
		wantWaits(t, recorder, time.Second, 2*time.Second)

		if _, err := p.Get(ctx, "k", wants[*conn]{Dial: slow}.req()); err == nil {
			t.Error("there was a slot")
		}
		short, cancel := context.WithTimeout(ctx, time.Second/2)
		defer cancel()
		if _, err := p.Get(short, "k", wants[*conn]{Dial: slow}.req()); err == nil {
			t.Error("there was a slot")
		}
		wantWaits(t, recorder, time.Second, 2*time.Second, 3*time.Second, time.Second/2)
		l.Release(0)
		synctest.Wait()
	})
}

// wantWaits fails the test unless the spans took so long.
func wantWaits(t *testing.T, recorder *tracetest.SpanRecorder, want ...time.Duration) {
	t.Helper()
	spans := recorder.Ended()
	if len(spans) != len(want) {
		t.Fatalf("%d spans, want %d", len(spans), len(want))
	}
	for i, s := range spans {
		if took := s.EndTime().Sub(s.StartTime()); s.Name() != "egress.queue" || took != want[i] {
			t.Errorf("%s of %v, want a wait of %v", s.Name(), took, want[i])
		}
	}
}
