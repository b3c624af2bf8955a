package status

import (
	"cmp"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// request is a request as Caddy's server hands it to handlers.
type request struct {
	method, path, remote, client, host, user string
	trusted                                  bool
	header                                   http.Header
	body, kind                               string // kind is "" for a form
	server                                   *caddyhttp.Server
}

func (q request) http() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://localhost"+q.path, strings.NewReader(q.body))
	if q.method != "" {
		r.Method = q.method
	}
	r.RemoteAddr = q.remote
	if q.host != "" {
		r.Host = q.host
	}
	if q.header != nil {
		r.Header = q.header
	}
	if q.body != "" {
		r.Header.Set("Content-Type", cmp.Or(q.kind, "application/x-www-form-urlencoded"))
	}
	repl := caddy.NewReplacer()
	if q.user != "" {
		repl.Set("http.auth.user.id", q.user)
	}
	ctx := context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		caddyhttp.ClientIPVarKey: q.client, caddyhttp.TrustedProxyVarKey: q.trusted,
	})
	if q.server != nil {
		ctx = context.WithValue(ctx, caddyhttp.ServerCtxKey, q.server)
	}
	return r.WithContext(ctx)
}

// provisioned is a page that can be asked, without a configuration around it.
func provisioned(t *testing.T, s *Status) *Status {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Cleanup() })
	return s
}

// ask asks for a page, and returns the status and what answered.
func (s *Status) ask(q request) (int, *httptest.ResponseRecorder) {
	w, passedOn := httptest.NewRecorder(), false
	err := s.ServeHTTP(w, q.http(), caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		passedOn = true
		return nil
	}))
	if e, ok := err.(caddyhttp.HandlerError); ok {
		return e.StatusCode, w
	}
	if passedOn {
		return 0, w
	}
	return w.Code, w
}

// Who sees the page: whoever is on this machine on purpose, and who is allowed.
func TestAccess(t *testing.T) {
	plain := provisioned(t, new(Status))
	open := provisioned(t, &Status{Path: "/x", Allow: []string{"192.0.2.0/24", "2001:db8::1"}, AllowUsers: []string{"ann", "bob"}})
	all := provisioned(t, &Status{AllowUsers: []string{"*"}})
	const page, local = "/egress-status/", "127.0.0.1:5"
	for name, c := range map[string]struct {
		s    *Status
		q    request
		want int
	}{
		"loopback":                     {plain, request{path: page, remote: local, client: "127.0.0.1"}, 200},
		"loopback, IPv6":               {plain, request{path: page, remote: "[::1]:5", client: "::1", host: "[::1]:80"}, 200},
		"mapped":                       {plain, request{path: page, remote: "[::ffff:127.0.0.1]:5", client: "::ffff:127.0.0.1"}, 200},
		"HEAD":                         {plain, request{method: "HEAD", path: page, remote: local, client: "127.0.0.1"}, 200},
		"POST":                         {plain, request{method: "POST", path: page, remote: local, client: "127.0.0.1"}, 200},
		"PUT":                          {plain, request{method: "PUT", path: page, remote: local, client: "127.0.0.1"}, 405},
		"elsewhere":                    {plain, request{path: page, remote: "192.0.2.1:5", client: "192.0.2.1"}, 403},
		"elsewhere, POST":              {plain, request{method: "POST", path: page, remote: "192.0.2.1:5", client: "192.0.2.1"}, 403},
		"elsewhere, an asset":          {plain, request{path: page + "page.js", remote: "192.0.2.1:5", client: "192.0.2.1"}, 403},
		"elsewhere, live":              {plain, request{path: page + "live", remote: "192.0.2.1:5", client: "192.0.2.1"}, 403},
		"elsewhere, no such thing":     {plain, request{path: page + "none", remote: "192.0.2.1:5", client: "192.0.2.1"}, 403},
		"through a trusted proxy":      {plain, request{path: page, remote: local, client: "192.0.2.1", trusted: true}, 403},
		"a client that says it is":     {plain, request{path: page, remote: "192.0.2.1:5", client: "127.0.0.1", trusted: true}, 403},
		"trusted, and nothing said":    {plain, request{path: page, remote: local, client: "127.0.0.1", trusted: true}, 200},
		"the client is another one":    {plain, request{path: page, remote: local, client: "127.0.0.2", trusted: true}, 403},
		"another name for the machine": {plain, request{path: page, remote: local, client: "127.0.0.1", host: "rebound.example:8080"}, 403},
		"localhost":                    {plain, request{path: page, remote: local, client: "127.0.0.1", host: "LOCALHOST:8080"}, 200},
		"unknown client":               {plain, request{path: page, remote: local}, 403},
		"a user who is not allowed":    {plain, request{path: page, remote: "192.0.2.1:5", client: "192.0.2.1", user: "ann"}, 403},
		"allowed by network":           {open, request{path: "/x/", remote: "192.0.2.9:5", client: "192.0.2.9"}, 200},
		"allowed by address":           {open, request{path: "/x/", remote: local, client: "2001:db8::1", trusted: true}, 200},
		"allowed user":                 {open, request{path: "/x/", remote: "198.51.100.1:5", client: "198.51.100.1", user: "bob"}, 200},
		"another user":                 {open, request{path: "/x/", remote: "198.51.100.1:5", client: "198.51.100.1", user: "eve"}, 403},
		"no user":                      {all, request{path: page, remote: "198.51.100.1:5", client: "198.51.100.1"}, 403},
		"any user":                     {all, request{path: page, remote: "198.51.100.1:5", client: "198.51.100.1", user: "eve"}, 200},
		"a star as user":               {open, request{path: "/x/", remote: "198.51.100.1:5", client: "198.51.100.1", user: "*"}, 403},
		"another path":                 {plain, request{path: "/egress-statusx", remote: local, client: "127.0.0.1"}, 0},
		"CONNECT":                      {plain, request{method: "CONNECT", path: page, remote: local, client: "127.0.0.1"}, 0},
		"without the slash":            {plain, request{path: "/egress-status", remote: local, client: "127.0.0.1"}, 308},
		"nothing":                      {plain, request{path: page + "none", remote: local, client: "127.0.0.1"}, 404},
		"an asset":                     {plain, request{path: page + "page.css", remote: local, client: "127.0.0.1"}, 200},
	} {
		got, w := c.s.ask(c.q)
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if got == 403 && w.Body.Len() > 0 {
			t.Errorf("%s: the refusal says %q", name, w.Body)
		}
		if csp := w.Header().Get("Content-Security-Policy"); got != 0 && (!strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe")) {
			t.Errorf("%s: %q", name, csp)
		}
	}
}

// What somebody has passed on is not from this machine, whoever that was and whatever they
// say of their client: an empty field may stand before the proxy's own.
func TestAccess_PassedOn(t *testing.T) {
	s := provisioned(t, new(Status))
	for _, trusted := range []bool{false, true} {
		for _, field := range []string{
			"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Cf-Connecting-Ip", "X-Custom-Client",
		} {
			for _, values := range [][]string{{"127.0.0.1"}, {"", "203.0.113.9"}, {""}, {"127.0.0.1, 203.0.113.9"}} {
				q := request{path: "/egress-status/", remote: "127.0.0.1:5", client: "127.0.0.1", trusted: trusted, header: http.Header{field: values}}
				q.server = &caddyhttp.Server{ClientIPHeaders: []string{"x-custom-client"}}
				if got, _ := s.ask(q); got != 403 {
					t.Errorf("trusted %v, %s: %q: %d", trusted, field, values, got)
				}
			}
		}
	}
}

func TestAllow_Mapped(t *testing.T) {
	s := provisioned(t, &Status{Allow: []string{"::ffff:198.51.100.0/120", "::ffff:192.0.2.1"}})
	for client, want := range map[string]int{"198.51.100.7": 200, "::ffff:198.51.100.7": 200, "192.0.2.1": 200, "198.51.101.7": 403, "192.0.2.2": 403} {
		if got, _ := s.ask(request{path: "/egress-status/", remote: "192.0.2.9:5", client: client}); got != want {
			t.Errorf("%s: %d, want %d", client, got, want)
		}
	}
}

// A slash at the end of the path is the one that the page has anyway.
func TestPath_Slash(t *testing.T) {
	s := provisioned(t, &Status{Path: "/ops/x/"})
	for path, want := range map[string]int{"/ops/x": 308, "/ops/x/": 200, "/ops/x/page.js": 200, "/ops/xx": 0} {
		got, w := s.ask(request{path: path, remote: "127.0.0.1:5", client: "127.0.0.1"})
		if got != want || got == 308 && w.Header().Get("Location") != "x/" {
			t.Errorf("%s: %d %v, want %d", path, got, w.Header(), want)
		}
	}
}

// What is asked of explain is in the body of a POST, so that it is in no log and no history;
// a page of somebody else's cannot ask.
func TestExplain_Post(t *testing.T) {
	s := provisioned(t, new(Status))
	const form = "target=http%3A%2F%2Fa%3Asecret%40h.example%2F"
	base := request{method: "POST", path: "/egress-status/", remote: "127.0.0.1:5", client: "127.0.0.1", body: form}
	for name, c := range map[string]struct {
		change func(*request)
		want   int
		asked  bool
	}{
		"asked":                          {func(q *request) { q.header = http.Header{"Sec-Fetch-Site": {"same-origin"}} }, 200, true},
		"without a browser":              {func(*request) {}, 200, true},
		"from elsewhere":                 {func(q *request) { q.header = http.Header{"Sec-Fetch-Site": {"cross-site"}} }, 403, false},
		"from elsewhere, an old browser": {func(q *request) { q.header = http.Header{"Origin": {"http://evil.example"}} }, 403, false},
		"GET":                            {func(q *request) { q.method, q.body, q.path = "GET", "", q.path+"?"+form }, 200, false},
		"too long":                       {func(q *request) { q.body = "target=" + strings.Repeat("a", 1<<16) }, 413, false},
		"no form":                        {func(q *request) { q.kind = "application/json" }, 200, false},
		"an asset":                       {func(q *request) { q.path += "page.js" }, 405, false},
	} {
		q := base
		c.change(&q)
		got, w := s.ask(q)
		text := w.Body.String()
		if got != c.want || strings.Contains(text, `class="error"`) != c.asked || strings.Contains(text, "secret") {
			t.Errorf("%s: %d, want %d: %s", name, got, c.want, text)
		}
		if refreshes := strings.Contains(text, `http-equiv="refresh"`); got == 200 && refreshes == c.asked {
			t.Errorf("%s: the page loads itself anew: %v", name, refreshes)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"egress_status": `[{"handler":"egress_status"}]`,
		"egress_status /ops/egress {\nallow 10.0.0.0/8 ::1\nallow_users ann bob\n}": `"match":[{"path":["/ops/egress","/ops/egress/*"]}]`,
		"egress_status /ops/": `"match":[{"path":["/ops","/ops/*"]}]`,
		"egress_status /":     `"match":[{"path":["/","/*"]}]`,
	} {
		out, _, err := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}.Adapt([]byte(":80 {\n"+text+"\n}\n"), nil)
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", text, err, out)
		}
	}
	for text, want := range map[string]string{
		"egress_status a b":                     "egress_status expects one path at most · got 2, at Caddyfile:2",
		"egress_status status":                  "path 'status' is not a path such as /egress-status, at Caddyfile:2",
		"egress_status /a/../b":                 "path '/a/../b' is not a path such as /egress-status, at Caddyfile:2",
		"egress_status /a*":                     "path '/a*' is not a path such as /egress-status, at Caddyfile:2",
		"egress_status {\nallow\n}":             "allow expects IP addresses or networks, at Caddyfile:3",
		"egress_status {\nallow 10.0.0/8\n}":    "allow: '10.0.0/8' is not an IP address or a network such as 10.0.0.0/8, at Caddyfile:3",
		"egress_status {\nallow_users\n}":       "allow_users expects names, or * for every user who is authenticated, at Caddyfile:3",
		"egress_status {\nallow ::1\nallow ::1": "duplicate 'allow', at Caddyfile:4",
		"egress_status {\nalow ::1\n}":          "unrecognized subdirective 'alow' of egress_status; there are: allow, allow_users, at Caddyfile:3",
	} {
		_, _, err := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}.Adapt([]byte(":80 {\n"+text+"\n}\n"), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v, want\n%s", text, err, want)
		}
	}
}

// A page behind basic_auth asks who it is after basic_auth has found out.
func TestCaddyfile_Order(t *testing.T) {
	out, _, err := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}.Adapt(
		[]byte(":80 {\nrespond ok\negress_status\nbasic_auth {\nann $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	auth, page, site := strings.Index(string(out), `"http_basic"`), strings.Index(string(out), `"egress_status"`), strings.Index(string(out), `"static_response"`)
	if auth < 0 || auth > page || page > site {
		t.Errorf("%d, %d, %d: %s", auth, page, site, out)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		s    *Status
		want string
	}{
		{&Status{Allow: []string{"nonsense"}}, "allow: 'nonsense' is not an IP address or a network such as 10.0.0.0/8"},
		{&Status{Allow: []string{"::ffff:0:0/90"}}, "allow: '::ffff:0:0/90' is more than IPv4; write IPv4 networks as 10.0.0.0/8"},
		{&Status{Path: "status"}, "path 'status' is not a path such as /egress-status"},
		{&Status{AllowUsers: []string{""}}, "allow_users: a user without a name; '*' is for all who are authenticated"},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		err := c.s.Provision(ctx)
		if err == nil {
			err = c.s.Validate()
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
		_ = c.s.Cleanup()
		cancel()
	}
}
