package egress

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// throughGroup is a request of a handler whose one group is `default`.
func throughGroup(t *testing.T, h *Handler, authority string) *incoming {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://"+authority+"/", http.NoBody)
	tr := newIncoming(h, httptest.NewRecorder(), r)
	tr.Route, tr.Start = &h.unrouted.way, time.Now()
	tr.Target = fixture.Target(t, authority)
	return tr
}

const oneUpstream = `{"groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:1"}]%s}}}`

// A writer that panics leaves neither the budget nor the turn of a probe behind.
func TestPathsAreLeftByPanics(t *testing.T) {
	h, _ := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, ""))
	g := h.groups["default"]
	told := g.Destinations()
	tr := throughGroup(t, h, "a.example:80")
	for range 5 {
		r := told.About(tr.Target, false)
		if err := r.Take(g.Members()[0].Key(), health.ProbeLimit); err != nil {
			t.Fatal(err)
		}
		r.Tell(failure.Refused)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		// The circuit opens for two seconds, and then lets one probe through.
		probing := false
		func() {
			defer func() { _ = recover() }()
			_ = throughGroup(t, h, "a.example:80").OverWays(func() error {
				probing = true
				panic(http.ErrAbortHandler)
			})
		}()
		if probing {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the circuit lets no probe through")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n, _ := g.Budget.InFlight(); n != 0 {
		t.Errorf("%d requests are counted", n)
	}
	if all := told.Report(); len(all) != 1 || all[0].Circuit != health.Open {
		t.Errorf("the turn of the probe was not given back: %v", all)
	}
}

// What checks found out ends with the last configuration that checks, whatever the
// order in which configurations begin and end.
func TestChecksAreForgotten(t *testing.T) {
	const checks = `,"health_checks":{"active":{"type":"tcp","interval":"1h"}}`
	down := func(m *upstream.Member) bool { return m.Health.Status().Active == health.Down }
	one := func(h *Handler) *upstream.Member { return h.groups["default"].Members()[0] }
	checked, endChecked := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, checks))
	checked.startGroups() // as Caddy does when all apps run
	m := one(checked)
	for end := time.Now().Add(10 * time.Second); !down(m); {
		if time.Now().After(end) {
			t.Fatal("the check of a closed port does not fail")
		}
		time.Sleep(time.Millisecond)
	}
	again, endAgain := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, checks))
	endChecked()
	if !down(one(again)) {
		t.Error("a reload with checks has forgotten them")
	}
	unchecked, _ := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, ""))
	endAgain()
	if m := one(unchecked); down(m) {
		t.Error("it stays down, and nobody checks it any more")
	}
	if _, err := unchecked.groups["default"].Pick(&selection.Choice{Request: httptest.NewRequest(http.MethodGet, "http://a.example/", nil)}, upstream.Exchange); err != nil {
		t.Error(err)
	}
}

// An origin that answers badly through an upstream is not the upstream's fault once
// that has answered at all.
func TestBlameAfterAnAnswer(t *testing.T) {
	h, _ := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, ""))
	g := h.groups["default"]
	tr := throughGroup(t, h, "a.example:80")
	tr.Use = upstream.Exchange
	tr.Ways.Current.Member = g.Members()[0]
	for _, f := range []*failure.Failure{failure.Protocol, failure.Incomplete, failure.Terminated, failure.TLS, failure.TLSAlert} {
		err := f.Because(errors.New("x"))
		tr.Connects()
		if v := tr.ViaError(err).Verdict; v.Kind != health.Failure {
			t.Errorf("%v before an answer: %v", f, v.Kind)
		}
		tr.Answers()
		if v := tr.ViaError(err).Verdict; v.Kind != health.Neutral || v.Failure != f {
			t.Errorf("%v after one: %v, %v", f, v.Kind, v.Failure)
		}
	}
}

// A CONNECT that is larger than an upstream takes is the client's fault: the upstream is
// not blamed, and no other one is asked.
func TestBlameOfLargeFields(t *testing.T) {
	h, _ := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, ""))
	tr := throughGroup(t, h, "a.example:443")
	tr.Ways.Current.Member = h.groups["default"].Members()[0]
	err := &proxydial.HeadSizeError{Size: 2, Limit: 1}
	for name, v := range map[string]upstream.Verdict{"tunnel": h.groups["default"].Members()[0].JudgeTunnel(t.Context(), err), "exchange": tr.ViaError(err).Verdict} {
		e := &upstream.Error{Verdict: v, Err: err}
		if v.Kind != health.Neutral || failure.Of(e) != failure.FieldsSize || e.Elsewhere() || e.OwnFault() || destination.Chargeable(e) {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A configuration that has gone can be collected, though the health and connections of
// its upstreams live on in the next.
func TestOldGroupsAreCollected(t *testing.T) {
	base, err := caddyContext()
	if err != nil {
		t.Fatal(err)
	}
	load := func() (func(), weak.Pointer[upstream.Group]) {
		ctx, cancel := caddy.NewContext(base)
		v, err := ctx.LoadModuleByID("http.handlers.egress", json.RawMessage(fmt.Sprintf(oneUpstream, `,"health_checks":{"active":{"type":"tcp"}}`)))
		if err != nil {
			t.Fatal(err)
		}
		g := v.(*Handler).groups["default"]
		p, err := g.Pick(new(selection.Choice), upstream.Tunnel)
		if err != nil {
			t.Fatal(err)
		}
		g.Observe(p, upstream.Stands, 0)
		return cancel, weak.Make(g)
	}
	end, old := load()
	endNext, next := load()
	defer endNext()
	end()
	for deadline := time.Now().Add(10 * time.Second); old.Value() != nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("the old group is still referred to")
		}
	}
	if next.Value() == nil {
		t.Error("the new one is gone as well")
	}
}

// What the default policy goes by is learned from answers, not from connects.
func TestAnswerTimesAreObserved(t *testing.T) {
	port := serveConns(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		}
	})
	h, end := mustLoadWithApps(t, `{"groups":{"default":{"upstreams":[{"url":"http://127.0.0.1:`+fmt.Sprint(port)+`"}]}}}`)
	defer end()
	m := h.groups["default"].Members()[0]
	tr := throughGroup(t, h, "a.example:80")
	conn, _, err := m.Conns.Dialer.DialProxy(t.Context(), proxydial.Client{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if m.Latency() != 0 {
		t.Errorf("a latency of %s before an answer", m.Latency())
	}
	tr.Use = upstream.Tunnel

	tun, err := tr.Connect()
	if err != nil {
		t.Fatal(err)
	}
	tun.Abandon()
	tun.Close()
	if m.Latency() == 0 {
		t.Error("nothing was learned from an answer")
	}
}
