package egress

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/selection"
)

// incomingFor is a request as Caddy hands it to us, authorized.
func incomingFor(t *testing.T, method, requestTarget string, change func(*http.Request) *http.Request) *incoming {
	t.Helper()
	u := &url.URL{Host: requestTarget}
	if method != http.MethodConnect {
		var err error
		if u, err = url.Parse(requestTarget); err != nil {
			t.Fatal(err)
		}
	}
	r := &http.Request{Method: method, URL: u, Host: u.Host, RequestURI: requestTarget, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
	r = caddyhttp.PrepareRequest(r.WithContext(t.Context()), caddy.NewReplacer(), nil, nil)
	if change != nil {
		r = change(r)
	}
	access, err := acl.New([]acl.Rule{{Subjects: []string{"0.0.0.0/0", "::/0"}, Allow: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := newIncoming(&Handler{proxy: core.Proxy{Access: fixture.FixedRules(access)}}, nil, r)
	tr.Use = tr.classify()
	if err := tr.authorize(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// Whatever the spelling, the request shows the destination in one form: that of the
// Host field that is sent, and for CONNECT with the port.
func TestShowDestination(t *testing.T) {
	for _, tc := range []struct{ method, target, host, port string }{
		{"GET", "http://a.example/", "a.example", ""},
		{"GET", "http://A.Example.:080/", "a.example", ""},
		{"GET", "http://a.example:8080/", "a.example:8080", "8080"},
		{"GET", "https://a.example:443/", "a.example", ""},
		{"GET", "https://a.example:80/", "a.example:80", "80"},
		{"GET", "http://0x7f.1/", "127.0.0.1", ""},
		{"GET", "http://[::ffff:7f00:1]:81/", "127.0.0.1:81", "81"},
		{"GET", "http://[0:0::1]/", "[::1]", ""},
		{"GET", "http://BÜCHER.example/", "xn--bcher-kva.example", ""},
		{"CONNECT", "A.example.:0443", "a.example:443", "443"},
		{"CONNECT", "a.example:80", "a.example:80", "80"},
		{"CONNECT", "[::1]:443", "[::1]:443", "443"},
	} {
		tr := incomingFor(t, tc.method, tc.target, nil)
		port, _ := caddyserver.Replacer(tr.HTTP).GetString("http.request.port")
		if tr.HTTP.Host != tc.host || port != tc.port {
			t.Errorf("%s %s: Host %q, port %q", tc.method, tc.target, tr.HTTP.Host, port)
		}
		policy := &selection.HeaderHash{Field: "Host"}
		if err := policy.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		if p := policy.Hashed(tr.HTTP); p != tc.host {
			t.Errorf("%s: the policy sees %q", tc.target, p)
		}
	}
}

// Placeholders show it too where a handler before us has handed on a copy of the
// request.
func TestShowDestination_Copies(t *testing.T) {
	type key struct{}
	tr := incomingFor(t, "GET", "http://One.Two.Three.:8080/", func(r *http.Request) *http.Request {
		return r.WithContext(context.WithValue(r.Context(), key{}, nil))
	})
	for name, want := range map[string]string{
		"host": "one.two.three", "hostport": "one.two.three:8080", "port": "8080",
		"host.labels.0": "three", "host.labels.2": "one", "host.labels.3": "",
	} {
		if got, _ := caddyserver.Replacer(tr.HTTP).GetString("http.request." + name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Where the canonical form is what the client wrote, nothing is allocated for it.
func TestShowDestination_Allocations(t *testing.T) {
	tr := incomingFor(t, "GET", "http://a.example:8080/", nil)
	if n := testing.AllocsPerRun(100, tr.showDestination); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A CONNECT is for what was on the wire, whatever a handler before us has made of it.
func TestConnectAuthority_Rewritten(t *testing.T) {
	tr := incomingFor(t, "CONNECT", "a.example:443", func(r *http.Request) *http.Request {
		r.RequestURI = "/"
		return r
	})
	if tr.Target.String() != "a.example:443" {
		t.Errorf("destination %s", tr.Target)
	}
}
