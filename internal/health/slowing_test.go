package health

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// asks has a request go through the first member of a group, unless others are asked first, and
// reports whether it did.
func asks(g *Group, now time.Duration, o Observation) (asked bool, out Outcome) {
	m := g.Members()[0]
	if !m.Upstream.Status().InRotation() || g.Keeping(at(now), o.Client, o.Destination)(m) != NotKept {
		return false, out
	}
	m.Upstream.Asks(at(now), o.Destination)
	return true, g.Observe(at(now), m, o)
}

// Where nothing convicts an upstream that refuses nearly all, it is asked about once a second
// while another one is in rotation, and told once.
func TestSlowing_Bounds(t *testing.T) {
	for name, tc := range map[string]struct {
		free    int // destinations for everybody, a tenth of what is asked for
		hosts   int // others; 0: always new ones
		clients []Client
	}{
		"a tenth is free":             {10, 200, manyClientsOf(50)},
		"a tenth is free, and new":    {1 << 20, 0, manyClientsOf(50)},
		"a tenth is free, one client": {10, 200, []Client{busy}},
		"nobody knows who asks":       {10, 200, []Client{0}},
		"new hosts only":              {0, 0, manyClientsOf(50)},
		"new hosts only, one client":  {0, 0, []Client{busy}},
		"a few hosts":                 {10, 5, manyClientsOf(50)},
		"thousands of clients":        {10, 200, manyClientsOf(250)},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 2, exactConfig())
			refused, told := 0, 0
			for n := range 100 * 60 {
				now := sec + time.Duration(n)*10*ms
				if n%100 == 0 { // the other one serves
					g.Observe(at(now), g.Members()[1], accepted(1<<30+n, other))
				}
				c := tc.clients[n%len(tc.clients)]
				if tc.free > 0 && n/len(tc.clients)%10 == 0 {
					asks(g, now, accepted(1<<21+n%tc.free, c))
					continue
				}
				host := n
				if tc.hosts > 0 {
					host = n * 7 % tc.hosts
				}
				asked, out := asks(g, now, refusal(host, c))
				if asked {
					refused++
				}
				if out.Ask == AskTellSlow {
					told++
				}
			}
			if refused > slowAfter+60+20 {
				t.Errorf("%d refusals in a minute", refused)
			}
			if told > 1 || told == 0 && refused > slowAfter {
				t.Errorf("told %d times", told)
			}
			if !g.Members()[0].Upstream.Status().InRotation() {
				t.Error("it is convicted")
			}
		})
	}
}

// slowed is a group of two whose first member is asked last. Known are the hosts from 0 on.
func slowed(t *testing.T, known int) (g *Group, now time.Duration) {
	t.Helper()
	g = newGroup(t, 2, exactConfig())
	for n := range known {
		g.Observe(at(0), g.Members()[0], accepted(n, ClientOf(fmt.Sprint("user", n), "")))
	}
	clients := manyClientsOf(50)
	for now = sec; g.Keeping(at(now), third, Destination("new.example:443"))(g.Members()[0]) != KeptSlow; now += 10 * ms {
		if now > time.Minute {
			t.Fatal("it is asked as often as before")
		}
		asks(g, now, refusal(100+int(now/ms), clients[int(now/(10*ms))%50]))
	}
	if !g.Members()[0].Upstream.Report(at(now), g.Config()).Refusing {
		t.Fatal("nobody is told")
	}
	return g, now
}

// What was reached before is asked for as before, and once something new is reached, all is.
func TestSlowing_Ends(t *testing.T) {
	g, now := slowed(t, 3)
	m := g.Members()[0]
	for n := range 3 {
		if asked, _ := asks(g, now, accepted(n, third)); !asked {
			t.Error("what was reached before is asked for elsewhere")
		}
	}
	o := accepted(1<<20, third)
	if kept := g.Keeping(at(now), third, o.Destination)(m); kept != KeptSlow {
		t.Fatalf("kept: %d", kept)
	}
	for asked := false; !asked; now += 100 * ms {
		if now > 2*time.Minute {
			t.Fatal("it is never asked")
		}
		asked, _ = asks(g, now, o)
	}
	for n := range 200 {
		if asked, _ := asks(g, now, accepted(1<<21+n, third)); !asked {
			t.Fatalf("request %d goes elsewhere", n)
		}
	}
	if m.Upstream.Report(at(now), g.Config()).Refusing {
		t.Error("it is said to refuse")
	}
}

// A member is only spared what another one takes.
func TestSlowing_WhileOthersServe(t *testing.T) {
	g, now := slowed(t, 1)
	m := g.Members()
	keeps := func() Kept { return g.Keeping(at(now), third, Destination("new.example:443"))(m[0]) }
	if keeps() != KeptSlow {
		t.Fatal("it is not spared")
	}
	m[1].Upstream.SetAdmin(Drain)
	if keeps() != NotKept {
		t.Error("nobody else is in rotation")
	}
	m[1].Upstream.SetAdmin(Ready)
	m[1].Upstream.breaker.refused.slowing = m[0].Upstream.breaker.refused.slowing
	m[1].Upstream.keepAway(instantOf(at(time.Hour)))
	if keeps() != NotKept || g.Keeping(at(now), third, Destination("new.example:443"))(m[1]) != NotKept {
		t.Error("each is spared for the other")
	}
	g, now = slowed(t, 1)
	if err := g.SetMembers(g.Members()[:1]); err != nil {
		t.Fatal(err)
	}
	if kept := g.Keeping(at(now), third, Destination("new.example:443"))(g.Members()[0]); kept != NotKept {
		t.Error("it is alone")
	}
}

// Neither one client, whatever it mixes, nor one site that all ask for, nor an origin takes
// an upstream from the others.
func TestSlowing_OfFew(t *testing.T) {
	ask := func(n int, c Client) Observation { return refusal(n, c) }
	v6 := func(n int) Client { return ClientOf("", fmt.Sprintf("2001:db8:0:%x::1", n)) }
	for name, o := range map[string]func(n int) Observation{
		"one client, many sites":    func(n int) Observation { return ask(n, busy) },
		"its addresses":             func(n int) Observation { return ask(n, v6(n)) },
		"both families":             func(n int) Observation { return ask(n, []Client{v6(n), busy}[n%2]) },
		"one client that is served": func(n int) Observation { return []Observation{ask(n, busy), ask(n, busy), accepted(n, busy)}[n%3] },
		"one site":                  func(n int) Observation { return ask(1, manyClientsOf(250)[n%250]) },
		"a few sites":               func(n int) Observation { return ask(n%5, manyClientsOf(250)[n%250]) },
		"ports of one": func(n int) Observation {
			return Observation{Kind: AuthFault, Destination: Destination(fmt.Sprintf("bank.example:%d", n)), Client: manyClientsOf(250)[n%250]}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 2, exactConfig())
			for n := range 100 * 120 {
				now := sec + time.Duration(n)*10*ms
				if n%1000 == 0 {
					g.Observe(at(now), g.Members()[1], accepted(1<<30+n, other))
					if asked, _ := asks(g, now, accepted(1<<21+n, third)); !asked {
						t.Fatalf("at %s: another client's request goes elsewhere", now)
					}
				}
				asks(g, now, o(n))
			}
		})
	}
}

// In a busy group the sites that many are refused slow nobody down while most is reached.
func TestSlowing_OfABusyOne(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	clients := manyClientsOf(200)
	g.Observe(at(0), g.Members()[0], accepted(1<<20, other))
	kept := 0
	for n := range 100 * 300 {
		now := sec + time.Duration(n)*10*ms
		o := accepted(n, clients[n%200])
		if n%5 < 2 { // two in five
			o = refusal(n, clients[n*7%200])
		}
		if asked, _ := asks(g, now, o); !asked && o.Kind == Success {
			kept++
		}
	}
	if kept > 0 {
		t.Errorf("%d requests went elsewhere", kept)
	}
}

// What is remembered is bounded.
func TestSlowing_IsBounded(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	for n := range 10000 {
		g.Observe(at(sec), g.Members()[0], refusal(n, ClientOf(fmt.Sprint("user", n), "")))
	}
	s := &g.Members()[0].Upstream.breaker.refused.slowing
	if len(s.networks) > refusedKept || len(s.hosts) > refusedKept {
		t.Errorf("%d networks, %d hosts", len(s.networks), len(s.hosts))
	}
	if wait := s.total.until(eachInAll).sub(instantOf(at(sec))); wait > slowDebt+sec {
		t.Errorf("the next one may be in %s", wait)
	}
}

// Whatever comes at once, it ends where nothing is spent.
func TestSlowing_Concurrent(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	m := g.Members()[0]
	g.Observe(at(0), m, accepted(1<<20, other))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			c := manyClientsOf(8)[i]
			for n := range 500 {
				now := sec + time.Duration(n)*10*ms
				asks(g, now, refusal(n*8+i, c))
				if n%3 == 0 {
					asks(g, now, accepted(1<<21+n*8+i, c))
				}
				m.Upstream.Report(at(now), g.Config())
			}
		})
	}
	all.Wait()
	if s := m.Upstream.breaker.refused.slowing; s.total.much(instantOf(at(time.Hour))) || s.over(instantOf(at(time.Hour)), busy.network(), 7) {
		t.Errorf("%+v", s)
	}
}
