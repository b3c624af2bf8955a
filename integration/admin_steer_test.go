package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// order asks for a change that is expected to be made.
func (a adminAPI) order(t *testing.T, method, path, body string, into any) {
	t.Helper()
	status, _, answer := a.do(t, method, "/egress/"+path, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(answer), into); err != nil {
			t.Fatalf("%s %s: %v\n%s", method, path, err, answer)
		}
	}
}

// again runs the process once more, with what the last one has left in storage.
func (p *process) again(t *testing.T, s processSetup) *process {
	t.Helper()
	q := &process{proxy: p.proxy, admin: p.admin, elsewhere: p.elsewhere, ended: make(chan struct{})}
	q.start(t, s)
	return q
}

// steered is an upstream as the tests of orders see it.
type steered struct {
	ID, URL, State string
	Weight         float64 `json:"weight_ratio"`
	Ordered        *struct {
		State, Weight, By, Reason string
		Until                     time.Time
	}
}

// An upstream that is taken out gets no new requests, over reloads and restarts, until it is
// put back or its time is over; who has done it and why is told and logged.
func TestAdmin_SteerUpstreams(t *testing.T) {
	p := reserve(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	echo := newEchoOrigin(t)
	t.Parallel()
	setup := func(name string) processSetup {
		return processSetup{egress: "server_name " + name + "\n" + groupOf("lb_policy round_robin\n", one, two)}
	}
	p.start(t, setup("first"))
	a := adminAPI{p.admin}
	upstreams := func() (found [2]steered) {
		var all []steered
		a.get(t, "upstreams", &all)
		if len(all) != 2 {
			t.Fatalf("%+v", all)
		}
		return [2]steered(all)
	}
	id := upstreams()[0].ID
	standing := p.client(t, "h1").open(t, echo.addr) // through one of them
	defer standing.Close()
	one.asked()
	two.asked()
	served := func(p *process, when string, wantOne bool) {
		t.Helper()
		for range 6 {
			p.client(t, "h1").open(t, echo.addr).Close()
		}
		if n := len(one.asked()); (n > 0) != wantOne {
			t.Errorf("%s: the upstream got %d requests", when, n)
		}
		if n := len(two.asked()); n == 0 {
			t.Errorf("%s: the other upstream got none", when)
		}
	}
	served(p, "before", true)

	var answer struct {
		State, Weight, By, Reason, Group, Upstream string
		Stored                                     bool
		Until                                      time.Time
	}
	a.order(t, "PATCH", "upstreams/"+id, `{"state":"drain","for":"1h","reason":"disk \"full\""}`, &answer)
	if answer.State != "drain" || answer.Weight != "100%" || answer.By != "127.0.0.1" || answer.Reason != `disk "full"` ||
		answer.Upstream != one.url() || answer.Group != "default" || !answer.Stored || answer.Until.IsZero() {
		t.Errorf("%+v", answer)
	}
	line := p.awaitLog(t, "upstream changed through the admin API")
	if line.str("level") != "warn" || line.str("by") != "127.0.0.1" || line.str("reason") != `disk "full"` || line.str("state") != "drain" || line.str("upstream") != one.url() {
		t.Errorf("%v", line)
	}
	told := func(when string) {
		t.Helper()
		u := upstreams()[0]
		if u.State != "drain" || u.Ordered == nil || u.Ordered.Reason != `disk "full"` || u.Ordered.By != "127.0.0.1" || u.Ordered.Until.IsZero() {
			t.Errorf("%s: %+v", when, u)
		}
	}
	told("ordered")
	served(p, "drained", false)
	alive(t, standing, "the tunnel that stood before")
	p.load(t, setup("second"))
	told("after a reload")
	served(p, "drained, after a reload", false)

	standing.Close()
	p.signal(t, syscall.SIGTERM)
	p.exit(t)
	p = p.again(t, setup("third"))
	told("after a restart")
	served(p, "drained, after a restart", false)

	a.order(t, "PATCH", "upstreams/"+id, `{"weight":"50%"}`, &answer)
	if u := upstreams()[0]; answer.State != "drain" || answer.Weight != "50%" || u.State != "drain" || u.Weight != 0.5 {
		t.Errorf("weighed: %+v, %+v", answer, u)
	}
	a.order(t, "PATCH", "upstreams/"+id, `{"state":"ready","weight":"100%"}`, nil)
	p.awaitLog(t, "upstream is as configured again")
	if u := upstreams()[0]; u.State != "up" || u.Ordered != nil || u.Weight != 1 {
		t.Errorf("put back: %+v", u)
	}
	served(p, "put back", true)

	a.order(t, "PATCH", "upstreams/"+id, `{"state":"maint","for":"300ms"}`, nil)
	p.logs.wait(t, "the end of the time", func(l logLine) bool { return l.str("by") == "its time was over" })
	if u := upstreams()[0]; u.State != "up" || u.Ordered != nil {
		t.Errorf("when its time was over: %+v", u)
	}
	served(p, "when its time was over", true)
}

// In an emergency everything new is denied, by all handlers, over reloads and restarts, and
// tunnels end where that is asked for.
func TestAdmin_Emergency(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	origin := okOrigin(t)
	t.Parallel()
	p.start(t, processSetup{})
	a := adminAPI{p.admin}
	denied := func(p *process, when string) {
		t.Helper()
		for _, kind := range clientKinds {
			resp, tun := p.client(t, kind).connect(t, echo.addr, "", nil)
			tun.Close()
			expectError(t, resp, 503, "http_request_denied")
			if resp := p.client(t, kind).get(t, origin.URL); resp.StatusCode != 503 {
				t.Errorf("%s, %s: status %d", when, kind, resp.StatusCode)
			}
		}
	}
	standing := p.openIdle(t, echo.addr)
	a.order(t, "PUT", "emergency", `{"reason":"break-in"}`, nil)
	denied(p, "ordered")
	for kind, tun := range standing {
		alive(t, tun, kind)
	}
	var state struct {
		On    bool
		Order *struct{ By, Reason string }
		Ended int `json:"tunnels_ended"`
	}
	if a.get(t, "emergency", &state); !state.On || state.Order == nil || state.Order.Reason != "break-in" || state.Order.By != "127.0.0.1" {
		t.Errorf("%+v", state)
	}
	p.load(t, processSetup{egress: "tunnel {\nclose_delay 5s\n}\n"})
	denied(p, "after a reload")
	a.order(t, "PUT", "emergency", `{"reason":"break-in","end_tunnels":true}`, &state)
	if state.Ended != len(standing) {
		t.Errorf("%d tunnels were ended, of %d", state.Ended, len(standing))
	}
	for kind, tun := range standing {
		if _, err := io.ReadAll(tun); err == nil && kind != "h1" {
			t.Logf("%s ended in order", kind) // at rest, that is no cut
		}
		tun.Close()
	}
	if l := p.awaitLog(t, "emergency: all new requests are denied"); l.str("reason") != "break-in" || l.str("level") != "warn" {
		t.Errorf("%v", l)
	}
	p.signal(t, syscall.SIGTERM)
	p.exit(t)
	p = p.again(t, processSetup{})
	denied(p, "after a restart")
	a.order(t, "DELETE", "emergency", "", nil)
	p.awaitLog(t, "emergency ended: requests are served again")
	for kind, tun := range p.openIdle(t, echo.addr) {
		alive(t, tun, kind)
		tun.Close()
	}
	a.order(t, "PUT", "emergency", `{"for":"200ms"}`, nil)
	p.logs.wait(t, "its end", func(l logLine) bool {
		return l.str("msg") == "emergency ended: requests are served again" && l.str("by") == "its time was over"
	})
	p.client(t, "h1").open(t, echo.addr).Close()
}

// Tunnels are ended one by one, or all that are selected; a rehearsal ends none.
func TestAdmin_EndTunnels(t *testing.T) {
	p, echo, other := reserve(t), newEchoOrigin(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{})
	a := adminAPI{p.admin}
	first, second := p.openIdle(t, echo.addr), p.openIdle(t, other.addr)
	type ended struct {
		Dry     bool `json:"dry_run"`
		Tunnels struct {
			Total int
			Items []struct {
				ID     int
				Target string
			}
		}
	}
	var out ended
	a.order(t, "DELETE", "tunnels?dry_run=true&target="+echo.addr, "", &out)
	if !out.Dry || out.Tunnels.Total != len(first) || len(out.Tunnels.Items) != len(first) || out.Tunnels.Items[0].Target != echo.addr {
		t.Errorf("%+v", out)
	}
	for kind, tun := range first {
		alive(t, tun, kind)
	}
	id := out.Tunnels.Items[0].ID
	a.order(t, "DELETE", fmt.Sprintf("tunnels/%d", id), "", nil)
	eventually(t, "one tunnel to be gone", func() bool {
		a.order(t, "DELETE", "tunnels?dry_run=true&target="+echo.addr, "", &out)
		return out.Tunnels.Total == len(first)-1
	})
	out = ended{}
	a.order(t, "DELETE", "tunnels?limit=1&target="+echo.addr, "", &out)
	if out.Dry || out.Tunnels.Total != len(first)-1 || len(out.Tunnels.Items) != 1 {
		t.Errorf("%+v", out)
	}
	for kind, tun := range first {
		buf := make([]byte, 1)
		if n, err := tun.Read(buf); n > 0 || err == nil {
			t.Errorf("%s goes on", kind)
		}
		tun.Close()
	}
	for kind, tun := range second {
		alive(t, tun, kind)
		tun.Close()
	}
	eventually(t, "all tunnels to be gone", func() bool {
		a.order(t, "DELETE", "tunnels?dry_run=true&min_age=0s&client=127.0.0.0/8", "", &out)
		return out.Tunnels.Total == 0
	})
	if got := p.reasons(); got["admin"] != len(first) {
		t.Errorf("tunnels ended by %v", got)
	}
}

// What is remembered of a destination and of names is forgotten on demand.
func TestAdmin_Forget(t *testing.T) {
	site, dead := freeAddr(t), refusedAddr(t)
	a := adminAPI{loadWithAdmin(t, "", plainSite(site, "", usual+"destination_circuit {\nfailures 2\nopen_for 1m\n}\n"))}
	c := (&proxy{plain: site}).client(t, "h1")
	for range 2 {
		expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
	}
	expectError(t, c.get(t, "http://"+dead+"/").Response, 503, "destination_unavailable")
	var out struct{ Forgotten int }
	a.order(t, "POST", "destinations/"+dead+"/reset", "", &out)
	if out.Forgotten != 1 {
		t.Errorf("%+v", out)
	}
	expectError(t, c.get(t, "http://"+dead+"/").Response, 502, "connection_refused")
	a.order(t, "POST", "dns/flush?name=Nothing.Test.", "", &out)
	if out.Forgotten != 0 {
		t.Errorf("%+v", out)
	}
	c.get(t, "http://localhost:1/")
	a.order(t, "POST", "dns/flush", "", &out)
}

// Whatever is wrong with an order is said, and nothing is changed by it.
func TestAdmin_BadOrders(t *testing.T) {
	site := freeAddr(t)
	up := newScriptedUpstream(t, "one")
	a := adminAPI{loadWithAdmin(t, "", plainSite(site, "", usual+groupOf("", up)))}
	var all []steered
	a.get(t, "upstreams", &all)
	id := all[0].ID
	const aDuration = "a duration above 0 such as 90s, 15m or 2d"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PATCH", "upstreams/" + id, ``, 400, "change of an upstream: EOF"},
		{"PATCH", "upstreams/" + id, `{}`, 400, "change of an upstream: say what is to be changed: state, weight or both"},
		{"PATCH", "upstreams/" + id, `{"stat":"drain"}`, 400, `change of an upstream: json: unknown field "stat"`},
		{"PATCH", "upstreams/" + id, `{"state":"drian"}`, 400, "field 'state': 'drian' is not one of ready, drain, maint"},
		{"PATCH", "upstreams/" + id, `{"weight":"0%"}`, 400, "field 'weight': '0%' is not a share from 1% to 100%"},
		{"PATCH", "upstreams/" + id, `{"weight":"101%"}`, 400, "field 'weight': '101%' is not a share from 1% to 100%"},
		{"PATCH", "upstreams/" + id, `{"weight":"5"}`, 400, "field 'weight': '5' is not a share from 1% to 100%"},
		{"PATCH", "upstreams/" + id, `{"state":"drain","for":"-1s"}`, 400, "field 'for': '-1s' is not " + aDuration},
		{"PATCH", "upstreams/" + id, `{"state":"drain","for":"soon"}`, 400, "field 'for': 'soon' is not " + aDuration},
		{"PATCH", "upstreams/" + id, `{"state":"drain","for":"9999999h"}`, 400, "field 'for': '9999999h' is not " + aDuration},
		{"PATCH", "upstreams/" + id, `{"state":"drain","reason":"a\nb"}`, 400, "field 'reason': 'a\ufffdb' is not a text without control characters"},
		{"PATCH", "upstreams/nobody", `{"state":"drain"}`, 404, "there is no upstream 'nobody'; GET /egress/upstreams lists them with their id"},
		{"PATCH", "upstreams/" + id, `{"state":"drain","State":"ready"}`, 400, "change of an upstream: field 'State' is unknown; write 'state'"},
		{"PATCH", "upstreams/" + id, `{"\u017ftate":"drain"}`, 400, "change of an upstream: field '\u017ftate' is unknown; write 'state'"},
		{"PATCH", "upstreams/" + id, `{"state":"drain","state":"ready"}`, 400, "change of an upstream: field 'state' stands twice"},
		{"PATCH", "upstreams/" + id, `null`, 400, "change of an upstream: it is not a JSON object"},
		{"PATCH", "upstreams/" + id, `{"state":"ready","for":"1h"}`, 400, "change of an upstream: field 'for' has no meaning where the upstream is as configured: there is no order that could end"},
		{"PUT", "emergency", ``, 400, "emergency: EOF"},
		{"PUT", "emergency", `null`, 400, "emergency: it is not a JSON object"},
		{"DELETE", "emergency", `{}`, 400, "DELETE takes no body here; allowed query parameters: none"},
		{"DELETE", "tunnels?client=127.0.0.1&dry_run=true;limit=5", ``, 400, "the query cannot be read: invalid semicolon separator in query"},
		{"DELETE", "tunnels?min_age=1ms&user=50%off", ``, 400, "the query cannot be read: invalid URL escape \"%of\""},
		{"DELETE", "tunnels?upstream=http://u:secret@one.example:3128", ``, 400, "query parameter 'upstream': leave the credentials out, or give the id; GET /egress/upstreams lists them"},
		{"DELETE", "tunnels?limit=5", `{"user":"bob"}`, 400, "DELETE takes no body here; allowed query parameters: handler, user, "},
		{"POST", "dns/flush", `{"name":"one.test"}`, 400, "POST takes no body here; allowed query parameters: handler, name"},
		{"POST", "dns/flush?name=n0.test%", ``, 400, "the query cannot be read: "},
		{"GET", "upstreams?state=up;x", ``, 400, "the query cannot be read: "},
		{"PUT", "emergency", `{"for":"x"}`, 400, "field 'for': 'x' is not " + aDuration},
		{"DELETE", "tunnels", ``, 400, "say which tunnels are meant, by user, client, target, upstream, min_age, min_bytes or handler; PUT /egress/emergency with end_tunnels ends all"},
		{"DELETE", "tunnels?dry_run=true", ``, 400, "say which tunnels are meant, by user, client, target, upstream, min_age, min_bytes or handler; PUT /egress/emergency with end_tunnels ends all"},
		{"DELETE", "tunnels?user=", ``, 400, "query parameter 'user': '' is not a text"},
		{"DELETE", "tunnels?dry_run=yes&user=a", ``, 400, "query parameter 'dry_run': 'yes' is not true or false"},
		{"DELETE", "tunnels/x", ``, 400, "'x' is not the id of a tunnel: a number"},
		{"DELETE", "tunnels/999999999", ``, 404, "there is no tunnel 999999999; it may have ended"},
		{"POST", "destinations/example.com/reset", ``, 400, "'example.com' is not a destination: host:port"},
		{"POST", "dns/flush?name=a..b", ``, 400, "query parameter 'name': 'a..b' is not a host name"},
	} {
		status, _, body := a.do(t, c.method, "/egress/"+c.path, c.body)
		var said struct{ Error string }
		if err := json.Unmarshal([]byte(body), &said); err != nil || status != c.status || !strings.HasPrefix(said.Error, c.want) {
			t.Errorf("%s %s %s: %d, %s, %v\nwant %d, %s", c.method, c.path, c.body, status, body, err, c.status, c.want)
		}
	}
	if a.get(t, "upstreams", &all); all[0].Ordered != nil || all[0].State != "up" {
		t.Errorf("%+v", all[0])
	}
}
