package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// checkedNow is what a check that was asked for has found.
type checkedNow struct {
	Group, Upstream, Handler, Type, Outcome, Error, Why, State string

	Counts  bool
	Seconds float64
	Timing  map[string]float64
}

// checkNow has an upstream checked, and holds the answer against the description of the API.
func (a adminAPI) checkNow(t *testing.T, d *description, id string) (c checkedNow) {
	t.Helper()
	body := a.expectAnswer(t, d, http.MethodPost, "/egress/upstreams/{id}/check", "/egress/upstreams/"+url.PathEscape(id)+"/check?handler=clear", "")
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		t.Fatal(err, body)
	}
	if c.Handler != "clear" || c.Seconds <= 0 {
		t.Errorf("%s", body)
	}
	return c
}

// parts are those of the time that are known.
func (c *checkedNow) parts() (names string) {
	for _, name := range []string{"dns", "connect", "tls", "login", "answer"} {
		if took, ok := c.Timing[name+"_seconds"]; ok {
			names += " " + name
			if took <= 0 || took > c.Seconds+1e-6 {
				names += fmt.Sprintf(" (%v of %v)", took, c.Seconds)
			}
		}
	}
	return strings.TrimSpace(names)
}

// newSOCKSWithLogin starts a SOCKS proxy that asks for a password, and opens no tunnel really.
func newSOCKSWithLogin(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(oc *originConn) {
		say := func(read int, answer string) {
			if _, err := io.CopyN(io.Discard, oc.br, int64(read)); err == nil {
				_, _ = io.WriteString(oc.Conn, answer)
			}
		}
		say(4, "\x05\x02")                           // no login, or user and password
		say(3+len("bob")+len("hunter2"), "\x01\x00") // RFC 1929
		say(10, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		_, _ = io.Copy(io.Discard, oc.br)
	})
}

// A check that is asked for is the one that is configured, and counts; what it took is told
// by its parts. Without a configured one it is a connection, which counts for nothing.
func TestCheckNow(t *testing.T) {
	p := reserve(t)
	one, secure := newScriptedUpstream(t, "one"), newScriptedTLSUpstream(t, "secure")
	echo, socks := newEchoOrigin(t), newSOCKSWithLogin(t)
	trust := "tls_trust_pool file " + caFile(t) + "\n"
	checks := "health_check connect " + echo.addr + "\nhealth_interval 1h\nhealth_fails 1\nhealth_passes 1\n"
	routes := ""
	for _, group := range []string{"checked", "tls", "socks", "plain", "plaintls"} {
		routes += "route {\nmatch {\nheader X-To " + group + "\n}\nto " + group + "\n}\n"
	}
	t.Parallel()
	p.start(t, processSetup{egress: "upstreams checked {\nupstream http://localhost:" + port(one.addr) + "\n" + checks + "}\n" +
		"upstreams tls {\nupstream " + secure.url() + "\n" + trust + checks + "}\n" +
		"upstreams socks {\nupstream socks5://bob:hunter2@" + socks.addr + "\n" + checks + "}\n" +
		"upstreams plain {\nupstream " + one.url() + "\n}\n" +
		"upstreams plaintls {\nupstream " + secure.url() + "\n" + trust + "}\n" +
		routes})
	a, d := adminAPI{p.admin}, adminAPI{p.admin}.describe(t)
	ids := make(map[string]string)
	var all []struct{ ID, Group string }
	a.get(t, "upstreams", &all)
	for _, u := range all {
		ids[u.Group] = u.ID
	}
	events := follow(t, "http://"+p.admin+"/egress/events", "")
	for _, c := range []struct {
		group, kind, parts string
		counts             bool
	}{
		{"checked", "connect", "connect answer", true}, {"tls", "connect", "connect tls answer", true},
		{"socks", "connect", "connect login answer", true}, {"plain", "tcp", "connect", false}, {"plaintls", "tls", "connect tls", false},
	} {
		got := a.checkNow(t, d, ids[c.group])
		parts := strings.TrimPrefix(got.parts(), "dns ") // localhost may be known
		if got.Type != c.kind || got.Outcome != "passed" || got.Counts != c.counts || parts != c.parts || got.Group != c.group || got.Error != "" ||
			(got.Why == "") != c.counts {
			t.Errorf("%s: %+v, parts %s", c.group, got, parts)
		}
	}

	one.down()
	got := a.checkNow(t, d, ids["checked"])
	if got.Outcome != "failed" || got.State != "down" || !strings.Contains(got.Error, "connection refused") || !strings.HasSuffix(got.parts(), "connect") {
		t.Errorf("%+v", got)
	}
	if _, data := events.wait("unhealthy", nil); data["group"] != "checked" || data["reason"] != "check_failed" {
		t.Errorf("%v", data)
	}
	if got = a.checkNow(t, d, ids["plain"]); got.Outcome != "failed" || got.State != "up" || got.Why != "no health_check is configured" {
		t.Errorf("%+v", got)
	}
	commander{t, p.admin}.run("check "+ids["checked"], 1, "connect check failed in ", "(connect ", "it is down", "connection refused", "the check did not pass: failed")
	one.up()
	if got = a.checkNow(t, d, ids["checked"]); got.Outcome != "passed" || got.State != "up" {
		t.Errorf("%+v", got)
	}
	if _, data := events.wait("healthy", nil); data["group"] != "checked" {
		t.Errorf("%v", data)
	}
	commander{t, p.admin}.run("check "+ids["checked"], 0, "http://localhost:", " in group checked: connect check passed in ", "answer ", "; it is up")

	a.order(t, http.MethodPatch, "upstreams/"+ids["checked"], `{"state":"maint"}`, nil)
	one.down()
	if got = a.checkNow(t, d, ids["checked"]); got.Outcome != "failed" || got.Counts || got.State != "maint" || got.Why != "it is in maint: it is not checked" {
		t.Errorf("%+v", got)
	}
	if status, _, body := a.do(t, http.MethodPost, "/egress/upstreams/nobody/check", ""); status != 404 || !strings.Contains(body, "there is no upstream 'nobody'") {
		t.Error(status, body)
	}
	commander{t, p.admin}.run("check nobody", 2, "there is no upstream 'nobody'; there are:")
}

// One check of an upstream is waited for at a time, who leaves makes room, and the time of a
// check is bounded by its timeout.
func TestCheckNow_Hangs(t *testing.T) {
	p := reserve(t)
	hangs := newRawOrigin(t, func(oc *originConn) { _, _ = io.Copy(io.Discard, oc.br) })
	t.Parallel()
	p.start(t, processSetup{egress: "upstreams default {\nupstream http://" + hangs.addr + "\nhealth_check connect 127.0.0.1:9\nhealth_interval 1h\nhealth_timeout 2s\n}\n"})
	a := adminAPI{p.admin}
	var all []steered
	a.get(t, "upstreams", &all)
	path := "/egress/upstreams/" + all[0].ID + "/check"
	ctx, leave := context.WithCancel(t.Context())
	type ended struct {
		status int
		err    error
	}
	results := make(chan ended, 2)
	for range 2 {
		go func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.admin+path, nil)
			if err != nil {
				results <- ended{err: err}
				return
			}
			r.Close = true
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				results <- ended{err: err}
				return
			}
			defer resp.Body.Close()
			results <- ended{status: resp.StatusCode}
		}()
	}
	if e := await(t, results, "the second one"); e.status != http.StatusConflict {
		t.Errorf("%+v", e)
	}
	leave()
	if e := await(t, results, "the first one"); e.err == nil {
		t.Errorf("%+v", e)
	}
	var got checkedNow
	eventually(t, "there is room", func() bool {
		status, _, body := a.do(t, http.MethodPost, path, "")
		if status == http.StatusConflict {
			return false
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
			t.Fatal(status, body, err)
		}
		return true
	})
	if got.Outcome != "inconclusive" || !got.Counts || got.Error == "" || got.parts() != "connect answer" {
		t.Errorf("%+v, parts %s", got, got.parts()) // the last one in rotation, and it can be connected to
	}
}
