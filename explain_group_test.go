package egress

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// groupHandler provisions a handler with the group that is given in JSON. No upstream
// in it is dialed: nothing is sent.
func groupHandler(t *testing.T, group string) (h *Handler, cleanUp func()) {
	t.Helper()
	found, cleanUp, err := provisionDry([]byte(`{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:8080"],"automatic_https":{"disable":true},
		"routes":[{"handle":[{"handler":"egress","allow_unauthenticated":true,"groups":{"default":` + group + `}}]}]}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if h, err = found.find(""); err != nil {
		t.Fatal(err)
	}
	h.dry = false // it is asked as if it served
	return h, cleanUp
}

func explainTunnel(t *testing.T, h *Handler) *explanation {
	t.Helper()
	e, err := h.explain(t.Context(), &explainRequest{Target: "a.example:443"})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const tieredGroup = `{"upstreams":[
	{"url":"socks5h://spare:1080","priority":1},
	{"url":"http://one:3128","max_tunnels":1},
	{"url":"http://two:3128"}],
	"circuit":{"consecutive_failures":1}}`

// What is told of a group follows its members: limits, circuits and tiers; and the
// probe that would be due is not taken by asking.
func TestExplainGroup(t *testing.T) {
	h, cleanUp := groupHandler(t, tieredGroup)
	defer cleanUp()
	g := h.groups["default"]
	byName := make(map[string]*upstream.Member)
	for _, m := range g.Members() {
		byName[m.Spec.Addr.Host] = m
	}
	check := func(what, next string, order ...string) {
		t.Helper()
		e := explainTunnel(t, h)
		group := e.Paths[0].Group
		if got := strings.Join(group.Next, " "); got != next {
			t.Errorf("%s: next %q, want %q", what, got, next)
		}
		var got []string
		for _, u := range group.Upstreams {
			got = append(got, u.Upstream)
		}
		if !slices.Equal(got, order) {
			t.Errorf("%s: order %v, want %v", what, got, order)
		}
	}
	const one, two, spare = "http://one:3128", "http://two:3128", "socks5h://spare:1080"
	check("at first", one+" "+two, one, two, spare)
	byName["one"].Health.StartTunnel()
	check("with one at its limit", two, one, two, spare)
	if s := explainTunnel(t, h).Paths[0].Group.Upstreams[0].State; s != "not checked, at its limit (max_tunnels)" {
		t.Errorf("state %q", s)
	}
	byName["two"].Health.SetAdmin(health.Maint)
	check("with two taken out as well", spare, one, spare, two)
	byName["one"].Health.EndTunnel()
	byName["two"].Health.SetAdmin(health.Ready)
	for {
		p, err := g.Pick(new(selection.Choice), upstream.Tunnel)
		if err != nil {
			t.Fatal(err)
		}
		if p.Member == byName["two"] {
			g.Observe(p, upstream.Verdict{Kind: health.ConnectFailure}, 1)
			break
		}
	}
	check("with the circuit of two open", one, one, spare, two)
	for _, m := range byName {
		m.Health.SetAdmin(health.Drain)
	}
	e := explainTunnel(t, h)
	want := "no upstream of group 'default' is available: 3 taken out by the operator"
	if e.Verdict != verdictUnavailable || e.Status != 503 || e.Reason != want {
		t.Errorf("%s (%d): %s", e.Verdict, e.Status, e.Reason)
	}
}

// Members of the scheme socks5 are given an address, which is told.
func TestExplainGroup_Resolving(t *testing.T) {
	h, cleanUp := groupHandler(t, `{"upstreams":[{"url":"socks5://one:1080"}]}`)
	defer cleanUp()
	e, err := h.explain(t.Context(), &explainRequest{Target: "localhost:443"})
	if err != nil {
		t.Fatal(err)
	}
	if e.Verdict != verdictDenied || e.Reason != "default deny: loopback" || len(e.Paths[0].Addresses) == 0 {
		t.Errorf("%+v", e)
	}
}

// A dynamic source is not asked in a dry run, which is told.
func TestExplainGroup_Dynamic(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h, cleanUp := groupHandler(t, `{"scheme":"http","dynamic":{"source":"a","name":"proxies.invalid","port":"3128"}}`)
	defer cleanUp()
	h.dry = true
	got := explainTunnel(t, h).Paths[0].Group.Upstreams
	if len(got) != 1 || got[0].Upstream != "those of the dynamic source" || got[0].State != stateUnknown {
		t.Errorf("%+v", got)
	}
}

// A handler may be asked while it goes away.
func TestExplainGroup_WhileCleaningUp(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	h, cleanUp := groupHandler(t, tieredGroup)
	var asking sync.WaitGroup
	begun := make(chan struct{}, 4)
	for range 4 {
		asking.Go(func() {
			for i := range 50 {
				if i == 10 {
					begun <- struct{}{}
				}
				if e, err := h.explain(t.Context(), &explainRequest{Target: "a.example:443"}); err != nil || e.Verdict != verdictAllowed {
					t.Errorf("%v, %+v", err, e)
				}
			}
		})
	}
	<-begun
	cleanUp()
	asking.Wait()
}

// A request that is under way finds the members of its group also while the
// configuration goes away.
func TestGroup_PickWhileClosing(t *testing.T) {
	for range 20 {
		h, cleanUp := groupHandler(t, tieredGroup)
		g := h.groups["default"]
		var picking sync.WaitGroup
		begun := make(chan struct{}, 4)
		for range 4 {
			picking.Go(func() {
				for i := range 3000 {
					if i == 10 {
						begun <- struct{}{}
					}
					if _, err := g.Pick(new(selection.Choice), upstream.Tunnel); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		<-begun
		cleanUp()
		picking.Wait()
	}
}

// What a client or user holds counts on the way through a group as well.
func TestExplainGroup_Holding(t *testing.T) {
	h, cleanUp := groupHandler(t, `{"upstreams": [{"url": "http://127.0.0.1:1"}]}`)
	defer cleanUp()
	h.proxy.Pool, h.transport.MaxPerClient = origin.New(h.transport.poolConfig(), 1, 0), 1
	ask := func() *explanation {
		t.Helper()
		e, err := h.explain(t.Context(), &explainRequest{URL: "http://a.example/"})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	client := ask().ClientIP
	if e := ask(); e.Verdict != verdictAllowed {
		t.Fatalf("%+v", e)
	}
	held, err := h.proxy.Pool.Hold(client, "")
	if err != nil {
		t.Fatal(err)
	}
	defer held.LetGo()
	if e := ask(); e.Verdict == verdictAllowed || e.Status != 503 {
		t.Errorf("%s %d, though the next exchange would be refused", e.Verdict, e.Status)
	}
}
