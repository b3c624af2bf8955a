package integration

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// This file contains what takes the spans of a Caddy: OTLP over HTTP.

// collector keeps the spans that it is sent.
type collector struct {
	url string

	mu    sync.Mutex
	raw   []byte // all that it was sent
	spans []span
}

// span is a span, with the path of names that leads to it once it is in a trace.
type span struct {
	*tracepb.Span
	path string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("spans came to %s: %v", r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, body...)
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, s := range scope.Spans {
					c.spans = append(c.spans, span{Span: s})
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// env has a Caddy send its spans here, soon.
func (c *collector) env() []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_BSP_SCHEDULE_DELAY=20",
	}
}

// clientTrace is a trace that a client has begun, by its number.
type clientTrace byte

func (n clientTrace) id() string { return fmt.Sprintf("%032x", 0xabc000+int(n)) }

// parent is the traceparent field of the client.
func (n clientTrace) parent() string { return "00-" + n.id() + "-00f067aa0ba902b7-01" }

// trace waits until the spans of a client's trace have the given paths, in any order.
func (c *collector) trace(t *testing.T, n clientTrace, want ...string) []span {
	t.Helper()
	slices.Sort(want)
	var got []string
	var spans []span
	defer func() {
		if t.Failed() {
			t.Logf("the spans are %v", got)
		}
	}()
	eventually(t, "the spans of a trace", func() bool {
		spans, got = c.of(n), nil
		for _, s := range spans {
			got = append(got, s.path)
		}
		return slices.Equal(slices.Sorted(slices.Values(got)), want)
	})
	return spans
}

// of are the spans of a client's trace so far, by when they began.
func (c *collector) of(n clientTrace) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []span
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == n.id() {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	for i, s := range found {
		names := []string{s.Name}
		for s, ok := parentOf(found, s); ok; s, ok = parentOf(found, s) {
			names = append(names, strings.TrimPrefix(s.Name, "egress."))
		}
		slices.Reverse(names)
		found[i].path = strings.Join(names, "/")
	}
	return found
}

func parentOf(spans []span, s span) (span, bool) {
	i := slices.IndexFunc(spans, func(p span) bool { return string(p.SpanId) == string(s.ParentSpanId) })
	if i < 0 {
		return span{}, false
	}
	return spans[i], true
}

// named are the spans whose own name is this.
func named(spans []span, name string) (found []span) {
	for _, s := range spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// id is the id of the span, as fields have it.
func (s span) id() string { return hex.EncodeToString(s.SpanId) }

// attributes are all of them, as texts.
func (s span) attributes() map[string]string {
	all := make(map[string]string)
	for _, a := range s.Attributes {
		text := a.Value.GetStringValue()
		if text == "" {
			text = fmt.Sprint(a.Value.GetIntValue())
		}
		all[a.Key] = text
	}
	return all
}

// has fails the test unless the span has these attributes, of which "" is none.
func (s span) has(t *testing.T, want map[string]string) {
	t.Helper()
	got := s.attributes()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %s is %q, want %q", s.Name, name, got[name], value)
		}
	}
}
