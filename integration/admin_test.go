package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// This file contains what the tests of the admin API share.

// adminAPI is the admin API of the Caddy that runs.
type adminAPI struct{ addr string }

// do sends a request, and returns status, header and body.
func (a adminAPI) do(t *testing.T, method, uri, body string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+a.addr+uri, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// get reads what an endpoint tells.
func (a adminAPI) get(t *testing.T, path string, into any) {
	t.Helper()
	status, _, body := a.do(t, http.MethodGet, "/egress/"+path, "")
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, status, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, body)
	}
}

// Whatever is wrong with a request is said, with what would be right.
func TestAdmin_BadRequests(t *testing.T) {
	site := freeAddr(t)
	a := adminAPI{loadWithAdmin(t, "", plainSite(site, "", usual))}
	for _, c := range []struct {
		method, uri string
		status      int
		allow, want string
	}{
		{"POST", "/egress/upstreams", 405, "GET, HEAD", "method POST is not allowed at /egress/upstreams; allowed: GET, HEAD"},
		{"GET", "/egress/explain", 405, "POST", "method GET is not allowed at /egress/explain; allowed: POST"},
		{"GET", "/egress/nothing", 404, "", "there is no endpoint '/egress/nothing'; GET /egress/ lists the endpoints"},
		{"GET", "/egress/upstreams/", 404, "", "there is no endpoint '/egress/upstreams/'; GET /egress/ lists the endpoints"},
		{"GET", "/egress/upstreams?lmit=1", 400, "", "query parameter 'lmit' is unknown here; allowed: handler, group, state, limit"},
		{"GET", "/egress/?limit=1", 400, "", "query parameter 'limit' is unknown here; allowed: none"},
		{"GET", "/egress/upstreams?limit=0", 400, "", "query parameter 'limit': '0' is not a number from 1 to 10000"},
		{"GET", "/egress/upstreams?limit=1&limit=2", 400, "", "query parameter 'limit' is given 2 times; give it once"},
		{"GET", "/egress/upstreams?state=gone", 400, "", "query parameter 'state': 'gone' is not one of maint, drain, auth_failed, down, circuit_open, half_open, spared, overloaded, refusing, full, up"},
		{"GET", "/egress/upstreams?handler=:1", 404, "", "there is no egress handler ':1'; there are: " + site + "#1"},
	} {
		status, header, body := a.do(t, c.method, c.uri, "")
		want, _ := json.Marshal(map[string]string{"error": c.want})
		if status != c.status || header.Get("Allow") != c.allow || strings.TrimSpace(body) != string(want) {
			t.Errorf("%s %s: %d, Allow %q, %s\nwant %d, %q, %s", c.method, c.uri, status, header.Get("Allow"), body, c.status, c.allow, want)
		}
	}
}

// Upstreams are told of with what Caddy tells of those of reverse_proxy, once for all
// handlers that share them, and under an ID that a reload leaves alone.
func TestAdmin_Upstreams(t *testing.T) {
	one, two := freeAddr(t), freeAddr(t)
	origin := okOrigin(t)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool { oc.ok("via"); return true })
	dead := refusedAddr(t)
	sites := func(weight int) string {
		egress := fmt.Sprintf(usual+`
			upstreams parents {
				upstream http://bob:hunter2@%s {
					weight %d
				}
				upstream http://%s
				lb_policy first
			}`, up.addr, weight, dead)
		return plainSite(one, "", egress+"\nroute parents") + plainSite(two, "", egress+"\nroute parents")
	}
	a := adminAPI{loadWithAdmin(t, "", sites(2))}
	(&proxy{plain: one}).client(t, "h1").get(t, origin.URL).expect(t, 200, "via")
	type told struct {
		Address  string
		ID       string
		URL      string
		Requests *int `json:"num_requests"`
		Fails    *int
		Handlers []string
		State    string
		Weight   int
		Counts   map[string]int
	}
	var before, after []told
	a.get(t, "upstreams", &before)
	if len(before) != 2 || len(before[0].Handlers) != 2 || before[0].Address != up.addr || before[0].URL != "http://"+up.addr ||
		before[0].State != "up" || before[0].Requests == nil || before[0].Fails == nil || before[0].Weight != 2 {
		t.Fatalf("%+v", before)
	}
	eventually(t, "the request to be counted", func() bool {
		a.get(t, "upstreams", &after)
		return after[0].Counts["success"] == 1
	})
	if err := tryLoad(t, globals{admin: a.addr, grace: "2s", storage: t.TempDir()}.String()+"\n"+sites(3)); err != nil {
		t.Fatal(err)
	}
	a.get(t, "upstreams", &after)
	if after[0].ID != before[0].ID || after[1].ID != before[1].ID || after[0].ID == after[1].ID || after[0].Weight != 3 || after[0].Counts["success"] != 1 {
		t.Errorf("before: %+v\nafter: %+v", before, after)
	}
	_, header, body := a.do(t, "GET", "/egress/upstreams?limit=1&handler="+two, "")
	if header.Get("X-Total-Count") != "2" || strings.Count(body, `"id"`) != 1 || !strings.Contains(body, `"handlers":["`+two+`#1"]`) {
		t.Error(header, body)
	}
}
