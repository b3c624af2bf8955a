package egress

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/explain"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/upstream"
)

// What is asked must make sense, and says what does not. Nothing of a password is
// repeated.
func TestExplainRequest_Errors(t *testing.T) {
	for _, tc := range []struct {
		asked explain.Request
		want  string
	}{
		{explain.Request{}, "neither url nor target says where the request goes"},
		{explain.Request{URL: "http://a/", Target: "a:1"}, "url is for exchanges and target for tunnels; one request has one of them"},
		{explain.Request{URL: "http://a/", Method: "CONNECT"}, "method: CONNECT takes host:port, not a URL"},
		{explain.Request{Target: "a:1", Method: "GET"}, "method: GET takes a URL, not host:port"},
		{explain.Request{URL: "http://a/", Method: "G T"}, "method: 'G T' is not a token"},
		{explain.Request{Target: "up.example"}, "target: up.example has no port; write host:port"},
		{explain.Request{Target: "up.example:"}, "target: up.example: has no port; write host:port"},
		{explain.Request{Target: "bob:hunter2@[::1]"}, "target: [::1] has no port; write host:port"},
		{explain.Request{URL: "/path"}, "url: not of the form http://host/path"},
		{explain.Request{URL: "http://a:x/"}, `url: invalid port ":x" after host`},
		{explain.Request{URL: "http://bob:hunter2@a:x/"}, "url: it is malformed"},
		{explain.Request{Target: "a:1", ClientIP: "a"}, "client_ip: 'a' is not an IP address"},
		{explain.Request{Target: "a:1", Headers: http.Header{"a b": nil}}, "headers: 'a b' is no field name"},
		{explain.Request{Target: "a:1", Headers: http.Header{"proxy-authorization": {"Basic x"}}}, "headers: credentials are not asked for; user is taken as given"},
	} {
		_, err := tc.asked.HTTP(t.Context())
		if err == nil || err.Error() != tc.want {
			t.Errorf("%+v: %v, want %q", tc.asked, err, tc.want)
		}
	}
}

// The synthetic request is classified like one that came over HTTP/1.1.
func TestExplainRequest_Classified(t *testing.T) {
	for _, tc := range []struct {
		asked explain.Request
		kind  upstream.Use
		https bool
		dest  string
	}{
		{explain.Request{URL: "http://A.example/x"}, upstream.Exchange, false, "a.example:80"},
		{explain.Request{URL: "https://a.example:8443/x", Method: "POST"}, upstream.Exchange, true, "a.example:8443"},
		{explain.Request{Target: "A.example:443"}, upstream.Tunnel, false, "a.example:443"},
		{explain.Request{Target: "[::1]:443"}, upstream.Tunnel, false, "[::1]:443"},
		{explain.Request{URL: "http://site.example/x"}, upstream.NotOurs, false, ""},
	} {
		r, err := tc.asked.HTTP(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		access, err := acl.New([]acl.Rule{{Subjects: []string{"::1"}, Allow: true}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := newIncoming(&Handler{hosts: map[string]struct{}{"site.example": {}}, proxy: core.Proxy{Access: fixture.FixedRules(access)}}, nil, r)
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

// A configuration without servers, and one that is none, are errors.
func TestProvisionDry_Errors(t *testing.T) {
	for config, want := range map[string]string{
		`{`:          "configuration: unexpected end of JSON input",
		`{}`:         "configuration: it has no HTTP servers",
		`{"apps":1}`: "configuration: json: cannot unmarshal number into Go struct field Config.apps of type caddy.ModuleMap",
		`{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"egress","allowed_ports":["0"]}]}]}}}}}`: "",
	} {
		_, cleanUp, err := admin.ProvisionDry([]byte(config))
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
	found, cleanUp, err := admin.ProvisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	h, err := findHandler(found, "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if _, places := admin.Handlers.ByPlace(); len(places) > 0 {
		t.Errorf("handlers that serve: %v", places)
	}
	e, err := h.explain(context.Background(), &explain.Request{Target: "10.0.0.1:443"})
	if err != nil || e.Running || e.Reason != "default deny: private" || e.Status != 403 {
		t.Errorf("%+v, %v", e, err)
	}
	cleanUp()
	if _, places := found.ByPlace(); len(places) > 0 {
		t.Errorf("left behind: %v", places)
	}
}

// Where no route matches, all are told that were tried; and where an upstream resolves the
// name, no rule on addresses is said to decide.
func TestExplain_RoutesTried(t *testing.T) {
	const site = ":8080 {\negress {\nallow_unauthenticated\nacl {\nallow 10.0.0.0/8\n}\nupstream http://127.0.0.1:1\n" +
		"route {\nmatch {\nhost a.example\n}\nto default\n}\nroute {\nmatch {\nhost *.never.example\n}\nto deny\n}\n}\n}\n"
	found, cleanUp, err := admin.ProvisionDry(mustAdapt(t, site))
	if err != nil {
		t.Fatal(err)
	}
	defer cleanUp()
	h, err := findHandler(found, "")
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"b.example:443": "not           routes[0]: host [\"a.example\"]\nnot           routes[1]: host [\"*.never.example\"]\nroute         none matches\n",
		"a.example:443": "rules         allowed: no rule matches it\nroute         routes[0]: to default",
	} {
		e, err := h.explain(t.Context(), &explain.Request{Target: target})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := e.WriteText(&text); err != nil || !strings.Contains(text.String(), want) {
			t.Errorf("%s: %v\n%s\nwant in it\n%s", target, err, text.String(), want)
		}
	}
}
