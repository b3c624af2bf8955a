package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// This file contains the test of what the admin API answers against its own description.

// description is the OpenAPI document of the API, and which properties of its schemas were
// seen in answers.
type description struct {
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]jsonSchema }

	seen map[string]bool // schema.property
}

type operation struct {
	Parameters []struct{ Name, In string }
	Responses  map[string]struct {
		Content map[string]struct{ Schema jsonSchema }
	}
	RequestBody struct {
		Content map[string]struct{ Schema jsonSchema }
	}
}

type jsonSchema struct {
	Ref        string `json:"$ref"`
	Type       string
	Format     string
	Properties map[string]jsonSchema
	Required   []string
	Items      *jsonSchema
	Additional any `json:"additionalProperties"`
	Minimum    *float64
}

func (a adminAPI) describe(t *testing.T) *description {
	t.Helper()
	d := &description{seen: make(map[string]bool)}
	a.get(t, "openapi.json", d)
	return d
}

// ends reports whether a path can be read, and the answer ends.
func (d *description) ends(path string) bool {
	return d.Paths[path]["get"].Responses != nil && path != "/egress/events"
}

// check finds what an answer has that the schema has not, and the reverse.
func (d *description) check(s jsonSchema, value any, at string) (wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, at+": "+fmt.Sprintf(format, args...)) }
	name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
	if s.Ref != "" {
		var ok bool
		if s, ok = d.Components.Schemas[name]; !ok {
			fail("there is no schema %s", name)
			return wrong
		}
	}
	switch v := value.(type) {
	case map[string]any:
		if s.Type != "object" {
			fail("is an object, not %s", s.Type)
		}
		for key, field := range v {
			p, known := s.Properties[key]
			if additional, ok := s.Additional.(map[string]any); ok && !known {
				b, _ := json.Marshal(additional)
				known = json.Unmarshal(b, &p) == nil
			}
			if !known {
				fail("'%s' is not documented", key)
				continue
			}
			d.seen[name+"."+key] = true
			wrong = append(wrong, d.check(p, field, at+"."+key)...)
		}
		for _, key := range s.Required {
			if _, ok := v[key]; !ok {
				fail("'%s' is missing", key)
			}
		}
	case []any:
		if s.Type != "array" {
			fail("is a list, not %s", s.Type)
			return wrong
		}
		for i, item := range v {
			wrong = append(wrong, d.check(*s.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case string:
		if s.Type != "string" {
			fail("is a text, not %s", s.Type)
		}
		if s.Format == "date-time" {
			when, err := time.Parse(time.RFC3339, v)
			if err != nil || when.Year() < 2000 {
				fail("'%s' is no time of today", v)
			}
		}
	case bool:
		if s.Type != "boolean" {
			fail("is a boolean, not %s", s.Type)
		}
	case float64:
		if s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) || s.Minimum != nil && v < *s.Minimum {
			fail("%v is no %s", v, s.Type)
		}
	default:
		fail("is %v", value)
	}
	return wrong
}

// expectDescribed reads an endpoint and holds the answer against the description.
func (a adminAPI) expectDescribed(t *testing.T, d *description, path, query string) string {
	t.Helper()
	return a.expectAnswer(t, d, http.MethodGet, path, path+query, "")
}

// expectAnswer asks an endpoint, and holds what is sent and answered against the description.
func (a adminAPI) expectAnswer(t *testing.T, d *description, method, path, uri, sent string) string {
	t.Helper()
	status, _, body := a.do(t, method, uri, sent)
	if status != http.StatusOK {
		t.Errorf("%s %s: %d %s", method, uri, status, body)
		return body
	}
	var value any
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	op := d.Paths[path][strings.ToLower(method)]
	if sent != "" {
		var value any
		if err := json.Unmarshal([]byte(sent), &value); err != nil {
			t.Fatal(err)
		}
		for _, wrong := range d.check(op.RequestBody.Content["application/json"].Schema, value, path+" (sent)") {
			t.Error(wrong)
		}
	}
	schema := op.Responses["200"].Content["application/json"].Schema
	if path == "/egress/openapi.json" {
		return body // its own schema is that of OpenAPI
	}
	for _, wrong := range d.check(schema, value, path) {
		t.Error(wrong)
	}
	return body
}

// showcase is a Caddy with about everything in it that can be told of.
type showcase struct {
	adminAPI
	site, list string
	planted    []string // secrets
	sites      func(more string) string
	storage    string
}

func newShowcase(t *testing.T) *showcase {
	dns := dnstest.Start(t)
	dns.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
	forward := func(oc *originConn, r *originRequest) bool {
		switch {
		case strings.HasPrefix(r.target, "dead."):
			oc.send("HTTP/1.1 502 x\r\nProxy-Status: via; error=connection_refused\r\nContent-Length: 0\r\n\r\n")
		case r.method == "CONNECT":
			oc.send("HTTP/1.1 200 OK\r\n\r\n")
			_, _ = io.Copy(io.Discard, oc)
			return false
		default:
			oc.ok("via")
		}
		return true
	}
	good := newFakeUpstream(t, forward)
	busy := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		oc.send("HTTP/1.1 503 x\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")
		return true
	})
	s := &showcase{site: freeAddr(t), list: writeFile(t, t.TempDir(), "denied.txt", []byte("# none but\nlisted.example\n")), storage: t.TempDir()}
	s.planted = []string{"hunter2", "s3cret", "session-token", "query-secret", "header-secret", "bob"}
	other, down, failing := freeAddr(t), refusedAddr(t), refusedAddr(t)
	s.sites = func(more string) string {
		egress := fmt.Sprintf(`
			basic_auth alice s3cret
			session_from user_suffix -session-
			hosts proxy.test
			acl {
				deny *.internal.example
				deny_file %s
				allow 127.0.0.0/8 ::1
			}
			transport {
				max_per_user 50
				resolvers %s
				hosts_override fixed.test 127.0.0.1
				%s
			}
			upstreams checked {
				upstream http://bob:hunter2@%s {
					header X-Key header-secret
				}
				upstream http://%s
				health_check tcp
				health_interval 100ms
			}
			upstreams failing {
				upstream http://bob:hunter2@%s
				upstream http://bob:hunter2@%s
				lb_policy first
			}
			upstreams busy {
				upstream http://bob:hunter2@%s
				upstream http://%s
				lb_policy first
			}
			route {
				match {
					host checked.test dead.test
				}
				to checked
			}
			route {
				match {
					host failing.test
				}
				to failing
			}
			route {
				match {
					host busy.test
				}
				to busy
			}
			route direct
		`, s.list, dns.Addr, more, good.addr, down, failing, good.addr, busy.addr, good.addr)
		return plainSite(s.site, "", "name main\n"+egress) + plainSite(other, "", egress)
	}
	s.adminAPI = adminAPI{loadWithAdmin(t, "", s.sites(""))}
	return s
}

// client is one of the site's, and the field that it logs in with.
func (s *showcase) client(t *testing.T) (*client, http.Header) {
	t.Helper()
	return (&proxy{plain: s.site}).client(t, "h1"), http.Header{"Proxy-Authorization": {basic("alice-session-session-token", "s3cret")}}
}

func (s *showcase) get(t *testing.T, url string) {
	t.Helper()
	c, login := s.client(t)
	r := c.newRequest(t, http.MethodGet, url, nil)
	maps.Copy(r.Header, login)
	resp := c.do(t, r)
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// use brings about all that is told of. What it returns are tunnels that are open.
func (s *showcase) use(t *testing.T) (direct, via *tunnel) {
	t.Helper()
	origin := okOrigin(t)
	dead := refusedAddr(t)
	for range 6 {
		s.get(t, origin.URL+"/?token=query-secret")
		s.get(t, "http://checked.test/?token=query-secret")
		s.get(t, "http://failing.test/")
		s.get(t, "http://origin.test:"+port(dead)+"/?token=query-secret")
		s.get(t, "http://nowhere.test/")
		s.get(t, "http://10.0.0.1/")
		s.get(t, "http://a.internal.example/")
		s.get(t, "http://listed.example/")
	}
	c, login := s.client(t)
	for _, failing := range []string{"dead.test:443", "busy.test:443"} {
		_, tun := c.connect(t, failing, "", login)
		tun.Close()
	}
	resp, direct := c.connect(t, newEchoOrigin(t).addr, "", login)
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if resp, via = c.connect(t, "checked.test:443", "", login); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	_, _ = io.WriteString(direct, "12345")
	if _, err := io.ReadFull(direct, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return direct, via
}

// steer changes what can be changed, holds the answers against the description, and takes all
// back but what is told by views.
func (s *showcase) steer(t *testing.T, d *description) {
	t.Helper()
	var all []steered
	s.adminAPI.get(t, "upstreams", &all)
	order := func(method, path, value, query, body string) {
		t.Helper()
		before, after, ok := strings.Cut(path, "{")
		uri := "/egress/" + path
		if ok {
			_, after, _ = strings.Cut(after, "}")
			uri = "/egress/" + before + value + after
		}
		s.expectAnswer(t, d, method, "/egress/"+path, uri+query, body)
	}
	order("PATCH", "upstreams/{id}", all[0].ID, "", `{"state":"ready","weight":"50%","for":"1h","reason":"a test"}`)
	t.Cleanup(func() { // orders outlive configurations, also those of tests
		s.adminAPI.order(t, "PATCH", "upstreams/"+all[0].ID, `{"state":"ready","weight":"100%"}`, nil)
	})
	for _, u := range all {
		order("POST", "upstreams/{id}/check", u.ID, "", "")
	}
	order("PUT", "emergency", "", "", `{"for":"1h","reason":"a test","end_tunnels":false}`)
	s.expectAnswer(t, d, "GET", "/egress/emergency", "/egress/emergency", "")
	order("DELETE", "emergency", "", "", "")
	order("POST", "destinations/{destination}/reset", "nowhere.test:1", "", "")
	order("POST", "dns/flush", "", "?name=elsewhere.test", "")
	order("DELETE", "tunnels", "", "?dry_run=true&client=127.0.0.1", "")
	order("PUT", "emergency", "", "", `{"end_tunnels":true}`)
	order("DELETE", "emergency", "", "", "")
	reopened, _ := s.use(t) // the views want tunnels
	t.Cleanup(func() { reopened.Close() })
	s.adminAPI.get(t, "tunnels", new(any))
	c, login := s.client(t)
	_, tun := c.connect(t, newEchoOrigin(t).addr, "", login)
	defer tun.Close()
	var open struct {
		Items []struct{ ID int }
	}
	s.adminAPI.get(t, "tunnels?sort=age&limit=1", &open)
	order("DELETE", "tunnels/{id}", fmt.Sprint(open.Items[0].ID), "", "")
}

// Every answer has the fields that are described, and no other, and each that is described
// is seen in one. Nothing that is secret is in any.
func TestAdmin_AnswersAreAsDescribed(t *testing.T) {
	s := newShowcase(t)
	direct, via := s.use(t)
	defer direct.Close()
	defer via.Close()
	if err := tryLoad(t, globals{admin: s.addr, grace: "2s", storage: s.storage}.String()+"\n"+s.sites("max_conns_per_host 99")); err != nil {
		t.Fatal(err)
	}
	s.get(t, "http://origin.test:"+port(refusedAddr(t))+"/")
	if err := os.WriteFile(s.list, []byte("not a subject\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list to be refused", func() bool {
		_, _, body := s.do(t, http.MethodGet, "/egress/rules", "")
		return strings.Contains(body, `"error"`)
	})
	eventually(t, "the checks", func() bool {
		_, _, body := s.do(t, http.MethodGet, "/egress/upstreams?state=down", "")
		return strings.Contains(body, `"last_check"`) && strings.Contains(body, "connection refused")
	})
	d := s.describe(t)
	s.steer(t, d)
	for path := range d.Paths {
		if !d.ends(path) {
			continue
		}
		queries := []string{""}
		if path == "/egress/dns" {
			queries = []string{"?name=origin.test", "?name=nowhere.test", "?name=fixed.test"}
		}
		for _, query := range queries {
			body := s.expectDescribed(t, d, path, query)
			for _, secret := range s.planted {
				if strings.Contains(body, secret) {
					t.Errorf("%s tells %s:\n%s", path, secret, body)
				}
			}
			if os.Getenv("EGRESS_SHOW") != "" {
				t.Logf("%s%s: %s", path, query, body)
			}
		}
	}
	for name, schema := range d.Components.Schemas {
		for property := range schema.Properties {
			if !strings.HasPrefix(name, "Explain") && name != "Problem" && name != "Event" && name != "CheckTimings" && !d.seen[name+"."+property] {
				t.Errorf("%s.%s is described, and in no answer", name, property)
			}
		}
	}
	index, _ := json.Marshal(slices.Sorted(maps.Keys(d.Paths)))
	for _, must := range []string{"/egress/", "/egress/snapshot", "/egress/tunnels", "/egress/explain"} {
		if !strings.Contains(string(index), `"`+must+`"`) {
			t.Errorf("%s is not described: %s", must, index)
		}
	}
}

// Many readers of every endpoint disturb neither requests nor reloads, nor each other.
func TestAdmin_ManyReaders(t *testing.T) {
	s := newShowcase(t)
	direct, via := s.use(t)
	defer direct.Close()
	defer via.Close()
	d, origin := s.describe(t), okOrigin(t)
	paths := slices.DeleteFunc(slices.Sorted(maps.Keys(d.Paths)), func(path string) bool { return !d.ends(path) })
	stop := make(chan struct{})
	var readers, clients sync.WaitGroup
	var read, served atomic.Int64
	for i := range 50 {
		readers.Go(func() {
			c := http.Client{Transport: new(http.Transport)}
			defer c.CloseIdleConnections()
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Get("http://" + s.addr + paths[n%len(paths)])
				if err != nil {
					continue // a reload replaces the admin endpoint, too
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", paths[n%len(paths)], resp.Status)
				}
				read.Add(1)
			}
		})
	}
	for range 4 {
		clients.Go(func() {
			c, login := s.client(t)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := c.newRequest(t, http.MethodGet, []string{origin.URL, "http://checked.test/", "http://10.0.0.1/"}[n%3], nil)
				maps.Copy(r.Header, login)
				if resp, err := c.try(r); err == nil {
					served.Add(1)
					resp.Body.Close()
				}
				if conn, err := net.Dial("tcp", s.site); err == nil { // which a reload may reset
					_, _ = fmt.Fprintf(conn, "CONNECT checked.test:443 HTTP/1.1\r\nHost: checked.test:443\r\nProxy-Authorization: %s\r\n\r\n", login.Get("Proxy-Authorization"))
					_, _ = conn.Read(make([]byte, 100))
					conn.Close()
				}
			}
		})
	}
	for n := range 5 {
		before, were := read.Load(), served.Load()
		eventually(t, "readers and requests to go on", func() bool { return read.Load() > before+200 && served.Load() > were+20 })
		if err := tryLoad(t, globals{admin: s.addr, grace: "2s", storage: s.storage}.String()+"\n"+s.sites(fmt.Sprintf("max_conns_per_host %d", 90+n))); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	clients.Wait()
	t.Log(read.Load(), "answers read,", served.Load(), "requests served")
}
