package health

import (
	"fmt"
	"testing"
	"time"
)

// refusal is one of the nth host, and accepted a success of it.
func refusal(n int, c Client) Observation {
	return Observation{Kind: AuthFault, Destination: Destination(fmt.Sprintf("refused%d.example:443", n)), Client: c}
}

func accepted(n int, c Client) Observation {
	return Observation{Kind: Success, Reached: true, Destination: refusal(n, 0).Destination, Client: c}
}

func manyClientsOf(n int) (all []Client) {
	for i := range n {
		all = append(all, ClientOf("", fmt.Sprintf("203.0.113.%d", i)))
	}
	return all
}

// tried is for how long, and how many times, credentials are tried that are refused.
type tried struct {
	attempts int
	for_     time.Duration
}

// try sends requests, those that are not kept away, every so often, until the upstream is
// out or an hour is over.
func try(t *testing.T, g *Group, from, every time.Duration, hosts int, clients []Client) (r tried, out bool) {
	t.Helper()
	m := g.Members()[0]
	for n, now := 0, from; now < from+time.Hour; n, now = n+1, now+every {
		c, o := clients[n%len(clients)], refusal(n%hosts, clients[n%len(clients)])
		if m.Upstream.KeepsAway(at(now), c, o.Destination) != NotKept {
			if !AnyKeptAway(at(now)) {
				t.Fatal("AnyKeptAway knows nothing of it")
			}
			continue
		}
		g.Observe(at(now), m, o)
		r.attempts++
		if m.Upstream.Status().AuthFault {
			r.for_ = now - from
			return r, true
		}
	}
	return r, false
}

// Credentials that are wrong are tried few times for what was reached before, whoever asks.
// Where nothing was, two hosts tell.
func TestRefusals_AreEnough(t *testing.T) {
	for name, tc := range map[string]struct {
		known   int // hosts that were reached before
		hosts   int // that are asked for
		clients []Client
		every   time.Duration
		most    tried
	}{
		"one is known":               {1, 1, []Client{busy}, ms, tried{8, 9 * sec}},
		"one, many clients":          {1, 1, manyClientsOf(50), ms, tried{8, 9 * sec}},
		"two are":                    {2, 2, []Client{busy}, ms, tried{10, 3 * sec}},
		"ten are":                    {10, 10, []Client{busy}, ms, tried{50, 2 * sec}},
		"ten, many clients":          {10, 10, manyClientsOf(50), ms, tried{500, 2 * sec}},
		"a client nobody knows":      {10, 10, []Client{0}, 100 * ms, tried{25, 3 * sec}},
		"seldom":                     {10, 10, manyClientsOf(50), time.Minute, tried{15, 15 * time.Minute}},
		"beside many others":         {10, 200, manyClientsOf(50), 10 * ms, tried{250, 4 * sec}},
		"none is":                    {0, 100, manyClientsOf(50), ms, tried{20, 7 * sec}},
		"none is, and one client":    {0, 100, []Client{busy}, ms, tried{6, 7 * sec}},
		"none is, and it is seldom":  {0, 100, manyClientsOf(50), time.Minute, tried{2, time.Minute}},
		"none is, and two are asked": {0, 2, []Client{busy}, ms, tried{10, 8 * sec}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 1, exactConfig()) // the last one, too
			for n := range tc.known {
				g.Observe(at(0), g.Members()[0], accepted(n, other))
			}
			got, out := try(t, g, 50*time.Minute, tc.every, tc.hosts, tc.clients)
			if !out || got.attempts > tc.most.attempts || got.for_ > tc.most.for_ {
				t.Errorf("out is %t after %+v, want at most %+v", out, got, tc.most)
			}
		})
	}
}

// What was never reached says nothing of the credentials, however many ask for it, and
// whether others are served meanwhile or not. Nobody but those who ask is kept away.
func TestRefusals_OfWhatIsUnknown(t *testing.T) {
	for name, clients := range map[string][]Client{
		"one client":    {busy},
		"many":          manyClientsOf(100),
		"one, unknown":  {0},
		"two addresses": {ClientOf("", "192.0.2.1"), ClientOf("", "2001:db8::1")},
	} {
		for _, hosts := range []int{1, 1000} {
			t.Run(fmt.Sprint(name, ", hosts ", hosts), func(t *testing.T) {
				g := newGroup(t, 1, exactConfig())
				m, told := g.Members()[0], 0
				g.Observe(at(0), m, Observation{Kind: Success, Reached: true, Destination: 5, Client: third})
				attempts, n := 0, 0
				for now := sec; now < 2*time.Minute; now += 10 * ms {
					n++
					if o := refusal(n%hosts, clients[n%len(clients)]); m.Upstream.KeepsAway(at(now), o.Client, o.Destination) == NotKept {
						attempts++
						if g.Observe(at(now), m, o).Ask == AskTell {
							told++
						}
					}
					if st := m.Upstream.Status(); !st.InRotation() {
						t.Fatalf("at %s: %+v", now, st)
					}
					if m.Upstream.KeepsAway(at(now), third, Destination("new.example:443")) != NotKept || m.Upstream.KeepsAway(at(now), clients[0], 5) != NotKept {
						t.Fatalf("at %s: somebody is kept away who was not refused", now)
					}
				}
				if len(clients) < 3 && clients[0] != 0 && attempts > 60 {
					t.Errorf("%d attempts", attempts)
				}
				if attempts > 60 && told != 1 {
					t.Errorf("told %d times", told)
				}
				g.Observe(at(2*time.Minute), m, Observation{Kind: Success, Reached: true, Destination: 7, Client: clients[0]})
				if m.Upstream.KeepsAway(at(2*time.Minute), clients[0], Destination("new.example:443")) != NotKept {
					t.Error("who is served is kept away")
				}
			})
		}
	}
}

// Sites that are not allowed any more take nobody out while others are reached that were
// before, and are unknown then; where only destinations are reached that need no credentials,
// these do.
func TestRefusals_OfWhatIsForbiddenNow(t *testing.T) {
	for name, tc := range map[string]struct {
		reached int
		out     bool
	}{"many others": {20, false}, "a few free ones": {2, true}} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 1, exactConfig())
			m, others := g.Members()[0], manyClientsOf(20)
			for n := range 8 {
				g.Observe(at(0), m, accepted(n, busy))
			}
			for n := range tc.reached {
				g.Observe(at(0), m, accepted(100+n, others[n])) // one network would not get places for all
			}
			for n := range 1000 {
				now := sec + time.Duration(n)*100*ms
				g.Observe(at(now), m, accepted(100+n%tc.reached, others[n%tc.reached]))
				g.Observe(at(now+50*ms), m, refusal(n%8, busy))
			}
			if st := m.Upstream.Status(); st.AuthFault != tc.out {
				t.Errorf("%+v", st)
			}
			if !tc.out && m.Upstream.isKnown(refusal(0, 0).Destination) {
				t.Error("what is not allowed any more is known")
			}
		})
	}
}

// One of them that is reached shows that the credentials are right for all.
func TestRefusals_OneIsReached(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	for n := range 6 {
		g.Observe(at(0), m, accepted(n, busy))
	}
	for round := range 20 {
		now := time.Duration(round)*10*sec + sec
		for n := range 6 {
			g.Observe(at(now), m, refusal(n, busy))
		}
		g.Observe(at(now+100*ms), m, accepted(0, busy))
		g.Observe(at(now+2*sec), m, refusal(1, busy))
		if st := m.Upstream.Status(); !st.InRotation() {
			t.Fatalf("%+v", st)
		}
		if m.Upstream.KeepsAway(at(now+2*sec), other, refusal(0, 0).Destination) != NotKept {
			t.Fatal("kept away, and it was reached")
		}
		g.Observe(at(now+3*sec), m, accepted(1, busy))
	}
}

// Where nothing was reached, one host says nothing, and a check that passes with the
// credentials counts as something that was reached.
func TestRefusals_OfTheFresh(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	if got, out := try(t, g, 0, 10*ms, 1, manyClientsOf(2)); out || got.attempts > 2*400 {
		t.Errorf("one host: out is %t after %+v", out, got)
	}
	if m.Upstream.KeepsAway(at(time.Hour), third, Destination("good.example:443")) != NotKept {
		t.Error("all are kept away for one host")
	}
	g = newGroup(t, 1, exactConfig())
	m = g.Members()[0]
	cfg := &g.cfg.UpstreamConfig
	for now := time.Duration(0); now < time.Minute; now += 100 * ms {
		if now%(2*sec) == 0 {
			m.Upstream.ObserveCheck(at(now), cfg, 2, 3, CheckResult{Outcome: Passed, ProvesAuth: true})
		}
		g.Observe(at(now), m, refusal(int(now/(100*ms)), busy))
	}
	if !m.Upstream.Status().InRotation() {
		t.Error("out although checks pass with the credentials")
	}
	g.Observe(at(time.Minute+aloneFor), m, refusal(1000, busy))
	if !m.Upstream.Status().AuthFault {
		t.Error("in rotation although nothing is reached, and no check passes")
	}
}

// One client takes fresh members out two at a time, not all at once.
func TestRefusals_OfAFreshGroup(t *testing.T) {
	g := newGroup(t, 10, exactConfig())
	asked := make(map[any]bool)
	for now := time.Duration(0); now < 8*sec; now += 100 * ms {
		o := refusal(int(now/(500*ms)), busy)
		keeps := g.Keeping(at(now), busy, o.Destination)
		for _, m := range g.Members() {
			if m.Upstream.Status().InRotation() && keeps(m) == NotKept {
				asked[m.Value] = true
				g.Observe(at(now), m, o)
				keeps = g.Keeping(at(now), busy, o.Destination)
			}
		}
	}
	if len(asked) < 2 || len(asked) > 4 {
		t.Errorf("asked %v", asked)
	}
}

// What a fresh member refuses while others serve counts where they reach it: else it is a
// site, and a standby would be out before it is needed.
func TestRefusals_WhileOthersServe(t *testing.T) {
	for name, tc := range map[string]struct{ proven, elsewhere, out bool }{
		"a site, at a standby":                   {},
		"a site, at one that has served":         {proven: true},
		"wrong credentials, at a standby":        {elsewhere: true, out: true},
		"what it never reached, at one that has": {proven: true, elsewhere: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 2, exactConfig())
			m := g.Members()
			if tc.proven {
				g.Observe(at(0), m[1], reached(1))
			}
			for n := range 200 {
				now := sec + time.Duration(n)*100*ms
				if n%2 == 0 {
					serve(g, now, other) // through the first
				}
				g.Observe(at(now), m[1], refusal(n, busy))
				if tc.elsewhere {
					g.Observe(at(now), m[0], accepted(n, busy))
				}
			}
			if out := !m[1].Upstream.Status().InRotation(); out != tc.out {
				t.Errorf("out: %t", out)
			}
		})
	}
}

// One port of a host that is refused keeps nobody from the others, nor anybody else from it.
func TestRefusals_OfOnePort(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	serve(g, 0, other)
	for range 5 {
		g.Observe(at(sec), m, Observation{Kind: AuthFault, Destination: Destination("bank.example:25"), Client: busy})
	}
	if m.Upstream.KeepsAway(at(sec), busy, Destination("bank.example:25")) != KeptHost {
		t.Error("it is not kept away")
	}
	if m.Upstream.KeepsAway(at(sec), busy, Destination("bank.example:443")) != NotKept || m.Upstream.KeepsAway(at(sec), other, Destination("bank.example:25")) != NotKept {
		t.Error("more is kept away than was refused")
	}
}

// A network fills no table that others are kept away by.
func TestRefusals_ManyAddresses(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	serve(g, 0, other)
	for n := range 1000 {
		g.Observe(at(sec), m, refusal(n, ClientOf("", fmt.Sprintf("2001:db8:0:%x::1", n))))
	}
	if m.Upstream.KeepsAway(at(sec), ClientOf("", "2001:db8:0:ffff::1"), Destination("new.example:443")) != KeptClient {
		t.Error("the network is not kept away")
	}
	if m.Upstream.KeepsAway(at(sec), third, Destination("new.example:443")) != NotKept {
		t.Error("others are kept away")
	}
}

// Logins that were accepted before are judged by time.
func TestRefusals_OfLogins(t *testing.T) {
	login := Observation{Kind: AuthFault, Client: busy}
	for name, before := range map[string]Observation{
		"reached":     reached(1),
		"unreachable": {Kind: SoftFail, LoggedIn: true, Destination: 7},
	} {
		t.Run(name, func(t *testing.T) {
			u := new(Upstream)
			observe(u, 0, before)
			for now := sec; now < sec+150*ms; now += 10 * ms {
				observe(u, now, login)
			}
			if !u.Status().InRotation() {
				t.Fatal("out for a moment of its directory")
			}
			if u.KeepsAway(at(sec+150*ms), other, 9) != KeptClient {
				t.Error("the account is tried on and on")
			}
			observe(u, 2*sec, before)
			for n := range time.Duration(2) {
				observe(u, (20+n)*sec, login)
				observe(u, (20+n)*sec+ms, before)
			}
			observe(u, 23*sec, login)
			if !u.Status().InRotation() {
				t.Fatal("out for refusals that were not in a row")
			}
			observe(u, 23*sec+500*ms, login)
			if observe(u, 24*sec, login); !u.Status().AuthFault {
				t.Error("in rotation")
			}
			tok := probeAt(t, u, 50*sec)
			before.Probe = tok
			if tr := observe(u, 50*sec, before); tr.Event() != EventCircuitClosed || tr.Reason != ReasonProbePassed {
				t.Errorf("a login was accepted: %+v, %+v", tr, u.Status())
			}
		})
	}
}

// What is behind a 407 of an exchange is not known: it takes nobody out, but is not asked
// for without end.
func TestRefusals_OfExchanges(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	g.Observe(at(0), m, Observation{Kind: Success, Reached: true, Absolute: true, Destination: 5, Client: third})
	asked, told := 0, 0
	for n := range 1000 {
		now := sec + time.Duration(n)*50*ms
		o := refusal(n, busy)
		o.Kind, o.Relayed, o.Refused = Failure, true, true
		if m.Upstream.KeepsAway(at(now), busy, o.Destination) == NotKept {
			asked++
			if g.Observe(at(now), m, o).Ask == AskTell {
				told++
			}
		}
	}
	if st := m.Upstream.Status(); st.AuthFault || asked > manyRefused+6 || told != 1 {
		t.Errorf("asked %d times, told %d times, %+v", asked, told, st)
	}
}

// refusing returns a group of one member that refuses the credentials. The hosts from 0 on
// are known.
func refusing(t *testing.T, known int) (*Group, *Member) {
	t.Helper()
	g := newGroup(t, 1, exactConfig())
	m := g.Members()[0]
	for n := range known {
		g.Observe(at(-time.Minute), m, accepted(n, busy))
	}
	for n := range 10 {
		g.Observe(at(-5*sec), m, refusal(n, busy))
	}
	g.Observe(at(0), m, refusal(0, busy))
	if !m.Upstream.Status().AuthFault {
		t.Fatal("in rotation")
	}
	return g, m
}

// Probes are left to requests for known hosts, and where there are none, to those for others
// than were refused.
func TestRefusals_ProbesOfKnownHosts(t *testing.T) {
	for _, known := range []int{6, 0} {
		_, m := refusing(t, known)
		first, last := 0, 1000
		if known == 0 {
			first, last = last, first
		}
		keeps := func(now time.Duration, n int) Kept {
			return m.Upstream.KeepsAway(at(now), other, refusal(n, 0).Destination)
		}
		if keeps(10*sec, first) != NotKept || keeps(10*sec, last) != KeptHost {
			t.Errorf("%d are known: the probe is not left to those that tell most", known)
		}
		if keeps(10*sec+leaveTo+sec, last) != NotKept {
			t.Error("it is left to others for ever")
		}
	}
}

// A probe that says nothing of the credentials neither ends nor lengthens the pause, and has
// cost its network the turn.
func TestRefusals_ProbesOfOthers(t *testing.T) {
	for name, o := range map[string]Observation{"a site": refusal(1000, busy), "403": {Kind: Success, Destination: 7, Client: busy}} {
		t.Run(name, func(t *testing.T) {
			g, m := refusing(t, 6)
			now := 16 * sec
			for n := range 20 {
				o.Client = ClientOf("", fmt.Sprintf("2001:db8:%x::1", n))
				var ok bool
				if _, o.Probe, ok = g.TryProbe(at(now), o.Client, nil); !ok {
					t.Fatalf("no turn for client %d", n)
				}
				g.Observe(at(now), m, o)
				if _, _, ok := g.TryProbe(at(now), ClientOf("", fmt.Sprintf("2001:db8:%x:1::2", n)), nil); ok {
					t.Fatal("its network has another turn")
				}
				if m.Upstream.KeepsAway(at(now), other, o.Destination) != KeptHost || m.Upstream.KeepsAway(at(now), other, refusal(0, 0).Destination) != NotKept {
					t.Fatal("the next turn is not left to a known destination")
				}
				now += leaveTo + sec
			}
			_, tok, ok := g.TryProbe(at(now), third, nil)
			if !ok {
				t.Fatal("no probe")
			}
			back := accepted(0, third)
			back.Probe = tok
			if out := g.Observe(at(now), m, back); len(out.Transitions) != 1 || out.Transitions[0].Event() != EventCircuitClosed {
				t.Errorf("%+v", out)
			}
			if !m.Upstream.isKnown(refusal(1, 0).Destination) {
				t.Error("what was reached before is not known any more")
			}
		})
	}
}

// What is refused still when the credentials are accepted is a site that is not allowed any
// more.
func TestRefusals_EndForgets(t *testing.T) {
	g, m := refusing(t, 6)
	o := accepted(1000, third)
	_, o.Probe, _ = g.TryProbe(at(16*sec), third, nil)
	g.Observe(at(16*sec), m, o)
	if !m.Upstream.Status().InRotation() || m.Upstream.isKnown(refusal(0, 0).Destination) || !m.Upstream.isKnown(o.Destination) {
		t.Errorf("%+v", m.Upstream.Status())
	}
}

// What need not have looked at the credentials forgives nothing.
func TestRefusals_WhatForgives(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Observation
		ends bool
	}{
		"403":              {Observation{Kind: Success}, false},
		"no such host":     {Observation{Kind: Success, Named: true, Destination: 7}, false},
		"SOCKS, no route":  {Observation{Kind: Success, Named: true, LoggedIn: true, Destination: 7}, true},
		"SOCKS, forbidden": {Observation{Kind: Success, LoggedIn: true}, true},
		"SOCKS, failed":    {Observation{Kind: SoftFail, LoggedIn: true, Destination: 7}, true},
		"reached":          {Observation{Kind: Success, Reached: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := new(Upstream)
			repeat(u, 0, 2, Observation{Kind: AuthFault})
			observe(u, sec, tc.o)
			observe(u, sec, Observation{Kind: AuthFault})
			if out := u.Status().AuthFault; out == tc.ends {
				t.Errorf("after three refusals with it between: out is %t", out)
			}
			u, tok := upstreamAt(t, proving)
			o := tc.o
			o.Probe = tok
			observe(u, 11*sec, o)
			if st := u.Status(); st.AuthFault == tc.ends {
				t.Errorf("as the result of a probe: %+v", st)
			}
		})
	}
}

// A 403 says nothing of the uplink: it does not hide that all else fails.
func TestSuspicion_DenialsHideNothing(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	m := g.Members()
	for n := range suspects {
		g.Observe(at(sec), m[0], Observation{Kind: SoftFail, Destination: reached(n).Destination, Client: busy})
		g.Observe(at(sec), m[0], Observation{Kind: Success, Client: other})
		g.Observe(at(sec), m[1], reached(n))
	}
	if m[0].Upstream.Status().InRotation() {
		t.Error("its uplink is dead, and denials hide that")
	}
}

// Two clients, which may be one, take no upstream out with origins of their own while others
// are served; nor do the addresses of one network.
func TestSuspicion_OfFewClients(t *testing.T) {
	for name, clients := range map[string][]Client{
		"two":           {busy, third},
		"both families": {ClientOf("", "192.0.2.9"), ClientOf("", "2001:db8::1")},
		"one network":   {ClientOf("", "2001:db8::1"), ClientOf("", "2001:db8::2"), ClientOf("", "2001:db8::3"), ClientOf("", "2001:db8::4")},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 3, exactConfig())
			m := g.Members()
			serve(g, 0, ClientOf("", "198.51.100.1"))
			for n := range 50 {
				c := clients[n%len(clients)]
				o := Observation{Kind: SoftFail, Destination: reached(n).Destination, Client: c}
				g.Observe(at(sec), m[0], o)
				g.Observe(at(sec), m[1], reached(n))
				failRelayed(g, sec, c, 1000+n, 1001+n)
			}
			if st := m[0].Upstream.Status(); !st.InRotation() {
				t.Errorf("%+v", st)
			}
		})
	}
}

// An upstream that is told of each client, by the PROXY protocol, may refuse one of them
// whatever it asks for: that takes nobody else's upstream away. Wrong credentials are found
// out all the same, since nobody is served any more.
func TestRefusals_OfAClientThatIsTold(t *testing.T) {
	for name, tc := range map[string]struct{ wrong, told, out bool }{
		"one client is refused": {false, true, false},
		"all are":               {true, true, true},
		"nobody is told of":     {true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 1, exactConfig())
			m, clients := g.Members()[0], manyClientsOf(10)
			for n := range 20 {
				g.Observe(at(0), m, accepted(n, clients[n%10]))
			}
			attempts := 0
			for n := range 60 * 10 {
				now := sec + time.Duration(n)*100*ms
				o := refusal(n%10, busy)
				o.ToldClient = tc.told
				if m.Upstream.KeepsAway(at(now), o.Client, o.Destination) == NotKept {
					if m.Upstream.Status().InRotation() {
						attempts++
					}
					g.Observe(at(now), m, o)
				}
				if n%10 > 0 { // others ask once a second
					continue
				}
				o = accepted(n/10%20, clients[n/10%10])
				if m.Upstream.KeepsAway(at(now), o.Client, o.Destination) != NotKept {
					if m.Upstream.Status().InRotation() && tc.told && !tc.wrong {
						t.Fatal("others are kept away from what one client is refused")
					}
					continue
				}
				if tc.wrong {
					o.Kind, o.Reached, o.ToldClient = AuthFault, false, tc.told
				}
				g.Observe(at(now), m, o)
			}
			if out := !m.Upstream.Status().InRotation(); out != tc.out || attempts > 200 {
				t.Errorf("out: %t after %d attempts", out, attempts)
			}
		})
	}
}
