package exchange

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/target"
)

// An origin may announce as many trailer fields as its head has room for. The server
// compares each with all before it, and tells of each that it does not take.
func TestAnnouncedTrailerFields(t *testing.T) {
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprintf("x-%d", i))
	}
	for _, tc := range []struct{ announced, want string }{
		{"x-a, X-B", "X-A, X-B"},
		{"x-a, x-a,X-A", "X-A"},
		{" , x-a,", "X-A"},
		{"content-length, if-match, x-a, if-unknown, realm, b ad, host", "X-A"},
		{strings.Join(many, ","), http.CanonicalHeaderKey(strings.Join(many[:h1.MaxFields], ", "))},
		{strings.Repeat("x-a,", 5000) + "x-b", "X-A, X-B"},
		{"host", ""},
	} {
		header := make(http.Header)
		new(Exchange).announceTrailer(header, &h1.Head{Fields: []h1.Field{{Name: "Trailer", Value: tc.announced}}})
		if got := header.Get("Trailer"); !strings.EqualFold(got, tc.want) {
			t.Errorf("%.60q is passed on as %.60q (%d names); want %.60q", tc.announced, got, 1+strings.Count(got, ","), tc.want)
		}
		if tc.want == "" && header["Trailer"] != nil {
			t.Errorf("%.60q: a field without a name", tc.announced)
		}
	}
	header := make(http.Header)
	new(Exchange).announceTrailer(header, &h1.Head{Fields: []h1.Field{{Name: "Trailer", Value: strings.Join(many[:700], ",")}, {Name: "Trailer", Value: strings.Join(many[700:], ",")}}})
	if n := 1 + strings.Count(header.Get("Trailer"), ","); n != h1.MaxFields {
		t.Errorf("of two fields, %d names are passed on", n)
	}
}

// What a route does to headers it does to trailer sections: but for what it sets, which is in
// the header already.
func TestChangeTrailer(t *testing.T) {
	change := func(h http.Header, _ *http.Request) {
		h.Add("Added", "ours")
		h.Set("Set", "ours")
		h.Del("Gone")
		for i, v := range h["Replaced"] {
			h["Replaced"][i] = strings.ReplaceAll(v, "secret", "x")
		}
	}
	trailer := http.Header{"Added": {"a", "b"}, "Set": {"theirs"}, "Gone": {"1"}, "Replaced": {"a secret"}, "Kept": {"k", ""}}
	changeTrailer(trailer, change, nil)
	want := http.Header{"Added": {"a", "b"}, "Replaced": {"a x"}, "Kept": {"k", ""}}
	if !reflect.DeepEqual(trailer, want) {
		t.Errorf("%q, want %q", trailer, want)
	}
}

// Names that the route takes away, or sets itself, are not announced.
func TestAnnouncedTrailerFields_Changed(t *testing.T) {
	x := new(Exchange)
	x.Route = &core.Route{Changes: core.Changes{Response: func(h http.Header, _ *http.Request) {
		h.Del("X-Gone")
		h.Set("X-Set", "ours")
	}}}
	header := make(http.Header)
	x.announceTrailer(header, &h1.Head{Fields: []h1.Field{{Name: "Trailer", Value: "x-gone, x-a, x-set"}}})
	if got := header.Get("Trailer"); !strings.EqualFold(got, "x-a") {
		t.Errorf("announced: %q", got)
	}
}

// The trailer section of a request leaves without the fields that its header leaves without.
func TestRequestTrailer(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "http://origin.test/", nil)
	r.Header.Set("Connection", "X-Hop")
	r.Trailer = http.Header{"X-A": {"a"}, "X-Hop": {"h"}, "Traceparent": {"t"}, "Tracestate": {"s"}, "X-Gone": {"g"}, "Authorization": {"no"}}
	x := newExchange(r, target.Target{Host: "origin.test", Port: 80})
	x.Proxy.HideTrace = true
	x.Route = &core.Route{Changes: core.Changes{Request: func(h http.Header, _ *http.Request) { h.Del("X-Gone") }}}
	if got, want := x.requestTrailer(), (http.Header{"X-A": {"a"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if r.Trailer.Get("X-Gone") == "" {
		t.Error("the client's own is changed")
	}
}
