package upstreams

import (
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/upstream"
)

// Credentials of upstreams replace placeholders, as do URLs, which refuse what they do
// not know.
func TestUpstream_Placeholders(t *testing.T) {
	t.Setenv("EGRESS_TEST_USER", "bob")
	t.Setenv("EGRESS_TEST_URL", "http://parent.example:3128")
	repl := caddy.NewReplacer()
	mine := &Credentials{"{env.EGRESS_TEST_USER}", "{env.EGRESS_TEST_USER}{x}"}
	for _, g := range []*Group{{Credentials: mine}, {Upstreams: []*Upstream{{Credentials: mine}}}} {
		u := &Upstream{}
		if len(g.Upstreams) > 0 {
			*u = *g.Upstreams[0]
		}
		u.URL = "{env.EGRESS_TEST_URL}"
		g.Upstreams = []*Upstream{u}
		all, err := (&specs{group: g, repl: repl}).all()
		if s := all[0]; err != nil || s.Addr.String() != "http://parent.example:3128" || *s.Login != (upstream.Login{User: "bob", Password: "bob{x}"}) {
			t.Errorf("%v, %v", s, err)
		}
	}
	bad := &Group{Upstreams: []*Upstream{{URL: "http://{http.request.host}"}}}
	if _, err := (&specs{group: bad, repl: repl}).all(); err == nil {
		t.Error("a placeholder without a value is taken for a URL")
	}
}
