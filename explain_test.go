package egress

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// What is asked must make sense, and says what does not. Nothing of a password is
// repeated.
func TestExplainRequest_Errors(t *testing.T) {
	for _, tc := range []struct {
		asked explainRequest
		want  string
	}{
		{explainRequest{}, "neither url nor target says where the request goes"},
		{explainRequest{URL: "http://a/", Target: "a:1"}, "url is for exchanges and target for tunnels; one request has one of them"},
		{explainRequest{URL: "http://a/", Method: "CONNECT"}, "method: CONNECT takes host:port, not a URL"},
		{explainRequest{Target: "a:1", Method: "GET"}, "method: GET takes a URL, not host:port"},
		{explainRequest{URL: "http://a/", Method: "G T"}, "method: 'G T' is not a token"},
		{explainRequest{URL: "/path"}, "url: not of the form http://host/path"},
		{explainRequest{URL: "http://a:x/"}, `url: invalid port ":x" after host`},
		{explainRequest{URL: "http://bob:hunter2@a:x/"}, "url: it is malformed"},
		{explainRequest{Target: "a:1", ClientIP: "a"}, "client_ip: 'a' is not an IP address"},
		{explainRequest{Target: "a:1", Headers: http.Header{"a b": nil}}, "headers: 'a b' is no field name"},
		{explainRequest{Target: "a:1", Headers: http.Header{"proxy-authorization": {"Basic x"}}}, "headers: credentials are not asked for; user is taken as given"},
	} {
		_, err := tc.asked.request(t.Context())
		if err == nil || err.Error() != tc.want {
			t.Errorf("%+v: %v, want %q", tc.asked, err, tc.want)
		}
	}
}

// The synthetic request is classified like one that came over HTTP/1.1.
func TestExplainRequest_Classified(t *testing.T) {
	for _, tc := range []struct {
		asked explainRequest
		kind  upstream.Use
		https bool
		dest  string
	}{
		{explainRequest{URL: "http://A.example/x"}, upstream.Exchange, false, "a.example:80"},
		{explainRequest{URL: "https://a.example:8443/x", Method: "POST"}, upstream.Exchange, true, "a.example:8443"},
		{explainRequest{Target: "A.example:443"}, upstream.Tunnel, false, "a.example:443"},
		{explainRequest{Target: "[::1]:443"}, upstream.Tunnel, false, "[::1]:443"},
		{explainRequest{URL: "http://site.example/x"}, upstream.NotOurs, false, ""},
	} {
		r, err := tc.asked.request(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		access, err := acl.New([]acl.Rule{{Subjects: []string{"::1"}, Allow: true}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := newTransaction(&Handler{hosts: map[string]struct{}{"site.example": {}}, proxy: core.Proxy{Access: fixture.FixedRules(access)}}, nil, r)
		if tr.Use = tr.classify(); tr.Use != tc.kind || tr.HTTPS != tc.https {
			t.Errorf("%+v: kind %d, https %t", tc.asked, tr.Use, tr.HTTPS)
		}
		if tc.kind == upstream.NotOurs {
			continue
		}
		if err := tr.authorize(); err != nil || tr.Target.String() != tc.dest {
			t.Errorf("%+v: destination %s, %v", tc.asked, tr.Target, err)
		}
	}
}

// Handlers are found by their place; an older one at the same place is the one that
// serves, until it leaves.
func TestRegistry(t *testing.T) {
	at := func(place string) *Handler {
		return &Handler{proxy: core.Proxy{Tunnels: &tunnels.Use{Use: &shared.Use[*tunnels.Book]{Key: place}}}}
	}
	var r registry
	check := func(place string, want *Handler, problem string) {
		t.Helper()
		h, err := r.find(place)
		switch {
		case problem == "" && (err != nil || h != want):
			t.Errorf("find(%q): %p, %v", place, h, err)
		case problem != "" && (err == nil || err.Error() != problem):
			t.Errorf("find(%q): %v, want %q", place, err, problem)
		}
	}
	check("", nil, "there is no egress handler in the configuration")
	one, next := at(":8080#1"), at(":8080#1")
	leaveOne := r.add(one)
	check("", one, "")
	leaveNext := r.add(next)
	check("", one, "")
	leaveOne()
	check("", next, "")
	other, far := at(":8080#2"), at(":9090#1")
	r.add(other)
	leaveFar := r.add(far)
	check("", nil, "say which egress handler is meant: :8080#1, :8080#2, :9090#1")
	check(":8080", nil, "say which egress handler is meant: :8080#1, :8080#2")
	check(":8080#2", other, "")
	check(":9090", far, "")
	check(":7070", nil, "there is no egress handler ':7070'; there are: :8080#1, :8080#2, :9090#1")
	leaveNext()
	leaveFar()
	check("", other, "")
}

func TestMatcherTexts(t *testing.T) {
	sets := caddyhttp.RawMatcherSets{
		{"host": []byte(`[ "*.example.com" ]`), "header": []byte(`{"X-Token":["s3cret"],"Accept":null}`)},
		{"expression": []byte(`"{http.request.header.X} == 's3cret'"`)},
		{},
	}
	want := `header Accept X-Token, host ["*.example.com"] | expression | `
	if got := strings.Join(matcherTexts(sets), " | "); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The words for a member follow its state.
func TestUpstreamState_Words(t *testing.T) {
	for _, tc := range []struct {
		state upstreamState
		want  string
	}{
		{upstreamState{Admin: "ready", Active: "up", Circuit: "closed"}, "up"},
		{upstreamState{Admin: "ready", Active: "unknown", Circuit: "closed"}, "not checked"},
		{upstreamState{Admin: "drain", Active: "down", Circuit: "open"}, "drain (by the operator)"},
		{upstreamState{Admin: "ready", Active: "down", Circuit: "open"}, "down (active check)"},
		{upstreamState{Admin: "ready", Active: "up", Circuit: "open", AuthFault: true}, "refuses our credentials"},
		{upstreamState{Admin: "ready", Active: "up", Circuit: "open", OpenFor: 2.5}, "circuit open (for 2.5s)"},
		{upstreamState{Admin: "ready", Active: "up", Circuit: "open"}, "circuit open (a probe is due)"},
		{upstreamState{Admin: "ready", Active: "up", Circuit: health.HalfOpen.String()}, "circuit half-open (a probe is under way)"},
		{upstreamState{Admin: "ready", Active: "up", Circuit: "closed", Limit: "max_tunnels"}, "up, at its limit (max_tunnels)"},
	} {
		if got := tc.state.words(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.state, got, tc.want)
		}
	}
}

// A configuration without servers, and one that is none, are errors.
func TestProvisionDry_Errors(t *testing.T) {
	for config, want := range map[string]string{
		`{`:          "configuration: unexpected end of JSON input",
		`{}`:         "configuration: it has no HTTP servers",
		`{"apps":1}`: "configuration: json: cannot unmarshal number into Go struct field Config.apps of type caddy.ModuleMap",
		`{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"egress","allowed_ports":["0"]}]}]}}}}}`: "",
	} {
		_, cleanUp, err := provisionDry([]byte(config))
		if err == nil {
			cleanUp()
			t.Errorf("%s: no error", config)
		} else if want != "" && err.Error() != want {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

// A dry run does not show up among the handlers that serve, and neither is it left
// behind.
func TestProvisionDry_Apart(t *testing.T) {
	config := `{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:8080"],"automatic_https":{"disable":true},
		"routes":[{"handle":[{"handler":"egress","allow_unauthenticated":true}]}]}}}}}`
	found, cleanUp, err := provisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	h, err := found.find("127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if _, places := handlers.byPlace(); len(places) > 0 {
		t.Errorf("handlers that serve: %v", places)
	}
	e, err := h.explain(context.Background(), &explainRequest{Target: "10.0.0.1:443"})
	if err != nil || e.Running || e.Reason != "default deny: private" || e.Status != 403 {
		t.Errorf("%+v, %v", e, err)
	}
	cleanUp()
	if _, places := found.byPlace(); len(places) > 0 {
		t.Errorf("left behind: %v", places)
	}
}
