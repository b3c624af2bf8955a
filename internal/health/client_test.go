package health

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The clients of these tests: one that sends nearly all requests, and others.
var busy, other, third = ClientOf("", "192.0.2.1"), ClientOf("", "192.0.2.2"), ClientOf("", "192.0.2.3")

func TestClientOf(t *testing.T) {
	if ClientOf("", "") != 0 {
		t.Error("nobody has a number")
	}
	if busy == 0 || busy == other || busy != ClientOf("", "192.0.2.1") {
		t.Errorf("%x, %x", busy, other)
	}
	user := ClientOf("alice", "2001:db8::1")
	if user == 0 || user != ClientOf("alice", "192.0.2.1") || user.network() != user.self() {
		t.Errorf("a user is %x", user)
	}
	one, two, far, mapped := ClientOf("", "2001:db8::1"), ClientOf("", "2001:db8::2"), ClientOf("", "2001:db8:1::1"), ClientOf("", "::ffff:192.0.2.1")
	if one.self() == two.self() || one.network() != two.network() || one.network() == far.network() || mapped.network() != mapped.self() {
		t.Errorf("%x, %x, %x, %x", one, two, far, mapped)
	}
}

// One that has many addresses is not another client at each of them, neither when it fails
// nor when it takes probes; but one that is served is another one than its neighbour.
func TestClient_ManyAddresses(t *testing.T) {
	here := func(i int) Client { return ClientOf("", fmt.Sprintf("2001:db8::%x", i)) }
	g := newGroup(t, 3, exactConfig())
	serve(g, 0, other)
	for n := range 50 {
		failRelayed(g, sec, here(n), n, n+1)
	}
	if u := g.Members()[0].Upstream; !u.Status().InRotation() {
		t.Error("out for what one client's origins did")
	} else if !u.isFewClients(instantAt(sec), here(100)) || !u.isFewClients(instantAt(sec), busy) || u.isFewClients(instantAt(sec), third) {
		t.Error("the failures of few are not told from those of many")
	}
	serve(g, sec, here(1))
	if !g.Members()[0].Upstream.served.another(instantAt(2*sec), here(2), servedLately) {
		t.Error("a neighbour that is served is nobody")
	}
	var l lastClients
	l.add(here(1))
	if l.has(here(2)) || !l.has(here(1)) {
		t.Error("one address stands for its neighbour")
	}
	if l.add(here(2)); !l.has(here(3)) || l.has(other) || l.has(0) {
		t.Error("two addresses do not stand for their network alone")
	}
}

// takeProbe takes the probe of the only member of a group that has one due.
func takeProbe(t *testing.T, g *Group, d time.Duration, c Client) (*Member, Token) {
	t.Helper()
	m, tok, ok := g.TryProbe(at(d), c, nil)
	if !ok {
		t.Fatalf("no probe at %s", d)
	}
	return m, tok
}

// notDue checks that a client gets no probe.
func notDue(t *testing.T, g *Group, d time.Duration, c Client) {
	t.Helper()
	if m := g.ProbeDue(at(d), false, c, nil); m != nil {
		t.Errorf("a probe of %v is due at %s", m.Value, d)
	}
	if m, _, ok := g.TryProbe(at(d), c, nil); ok {
		t.Errorf("a probe of %v at %s", m.Value, d)
	}
}

// emptyHanded are the ends of a probe that tell nothing that is certain.
var emptyHanded = map[string]Observation{
	"answer without detail": {Kind: SoftFail, Destination: 1},
	"no answer in time":     {Kind: ReplyTimeout, Destination: 1, Started: at(0)},
	"a limit":               {Kind: Neutral},
	"not sent":              {Kind: Neutral, Unsent: true},
	"left":                  {Kind: Cancelled},
	"overtaken":             {Kind: Cancelled, Overtaken: true},
	"the origin's, maybe":   {Kind: Failure, Relayed: true, Destination: 1},
}

// A client whose probe has told nothing leaves the next one to others for a while, however
// it ended; then it may probe again, so that an upstream comes back that has no other
// client.
func TestProbe_IsLeftToOthers(t *testing.T) {
	for name, o := range emptyHanded {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 3, exactConfig())
			groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
			m, tok := takeProbe(t, g, 10*sec, busy)
			o := o
			o.Probe, o.Client = tok, busy
			g.Observe(at(11*sec), m, o)
			due := m.Upstream.breaker.until.sub(instantAt(0))
			notDue(t, g, due, busy)
			notDue(t, g, due+leaveTo-1, busy)
			if m := g.ProbeDue(at(due), false, other, nil); m == nil {
				t.Error("no probe is due for another client")
			}
			_, tok = takeProbe(t, g, due+leaveTo, busy) // nobody else has come
			o.Probe = tok
			g.Observe(at(due+leaveTo+sec), m, o)
			due = m.Upstream.breaker.until.sub(instantAt(0))
			notDue(t, g, due, busy)
			_, tok = takeProbe(t, g, due, other)
			if out := g.Observe(at(due), m, Observation{Kind: Success, Probe: tok, Client: other}); len(out.Transitions) != 1 {
				t.Error("the other's probe has not brought it back")
			}
		})
	}
}

// A failure that is the upstream's beyond doubt says enough: the next probe may be anybody's.
// And so it is where the probe was given back before others could have missed it.
func TestProbe_IsNotLeftToOthers(t *testing.T) {
	for name, o := range map[string]Observation{
		"no connection": {Kind: ConnectFailure},
		"end of stream": {Kind: Failure},
		"a moment":      {Kind: Cancelled},
		"not sent":      {Kind: Neutral, Unsent: true},
	} {
		g := newGroup(t, 3, exactConfig())
		groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
		m, tok := takeProbe(t, g, 10*sec, busy)
		o.Probe, o.Client = tok, busy
		g.Observe(at(10*sec+5*ms), m, o)
		due := m.Upstream.breaker.until.sub(instantAt(0))
		if g.ProbeDue(at(due), false, busy, nil) == nil {
			t.Errorf("%s: no probe is due", name)
		}
	}
}

// A probe that never ends counts as one that has told nothing.
func TestProbe_NeverEnds(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	takeProbe(t, g, 10*sec, busy)
	for d := 10 * sec; d <= 70*sec+leaveTo-1; d += sec {
		notDue(t, g, d, busy)
	}
	takeProbe(t, g, 70*sec+leaveTo-1, other)
}

// Several clients whose probes tell nothing leave the next one to those that are left.
// However many there are, no more than a few are remembered.
func TestProbe_SeveralEmptyHanded(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	now := 10 * sec
	end := func(c Client) {
		m, tok := takeProbe(t, g, now, c)
		g.Observe(at(now), m, Observation{Kind: SoftFail, Probe: tok, Client: c})
		now = m.Upstream.breaker.until.sub(instantAt(0))
	}
	end(busy)
	end(other)
	notDue(t, g, now, busy)
	notDue(t, g, now, other)
	for n := range Client(100) {
		end(1000 + n)
		notDue(t, g, now, 1000+n)
	}
	takeProbe(t, g, now, busy) // long ago
}

// While the probe of one client takes its time, that of another one may go beside it, but no
// third: an upstream that hangs must not keep them all waiting. The result of either counts.
func TestProbe_Beside(t *testing.T) {
	for _, passes := range []string{"first", "second"} {
		for name, o := range emptyHanded {
			g := newGroup(t, 3, exactConfig())
			groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
			start := 10 * sec
			m, first := takeProbe(t, g, start, busy)
			notDue(t, g, start+besideAfter-1, other)
			notDue(t, g, start+besideAfter, busy)
			if g.ProbeDue(at(start+besideAfter), false, other, nil) == nil {
				t.Error("nothing is due beside it")
			}
			_, second := takeProbe(t, g, start+besideAfter, other)
			if first == second {
				t.Fatal("one token for both")
			}
			notDue(t, g, start+2*besideAfter, third)
			ends, by, passed, client := first, busy, second, other
			if passes == "first" {
				ends, by, passed, client = second, other, first, busy
			}
			o.Probe, o.Client = ends, by
			g.Observe(at(start+2*besideAfter), m, o)
			if s := m.Upstream.Status().Circuit; s == Closed {
				t.Fatalf("%s: %s", name, s)
			}
			out := g.Observe(at(start+2*besideAfter), m, Observation{Kind: Success, Probe: passed, Client: client})
			if len(out.Transitions) != 1 || m.Upstream.Status().Circuit != Closed {
				t.Errorf("%s: the %s has passed, and the circuit is %s", name, passes, m.Upstream.Status().Circuit)
			}
		}
	}
}

// What refuses our credentials is asked once at a time: another attempt may lock the account.
// And a client that has had a probe for nothing does not go beside that of another one.
func TestProbe_NotBeside(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, authFaults, Observation{Kind: AuthFault})
	takeProbe(t, g, 10*sec, busy)
	notDue(t, g, 20*sec, other)

	g = newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	m, tok := takeProbe(t, g, 10*sec, busy)
	g.Observe(at(10*sec), m, Observation{Kind: SoftFail, Probe: tok, Client: busy})
	takeProbe(t, g, 20*sec, other)
	notDue(t, g, 40*sec, busy)
	takeProbe(t, g, 40*sec, third)
}

// Requests that are lost if the probe fails go beside another one later, too.
func TestProbe_OverdueBeside(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	takeProbe(t, g, 10*sec, busy)
	for _, tc := range []struct {
		at   time.Duration
		want bool
	}{{20*sec + besideAfter - 1, false}, {20*sec + besideAfter, true}} {
		if due := g.ProbeDue(at(tc.at), true, other, nil) != nil; due != tc.want {
			t.Errorf("due at %s: %v", tc.at, due)
		}
		if _, _, ok := g.TryOverdueProbe(at(tc.at), other, nil); ok != tc.want {
			t.Errorf("a probe at %s: %v", tc.at, ok)
		}
	}
	g = newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	m, tok := takeProbe(t, g, 10*sec, busy)
	g.Observe(at(10*sec), m, Observation{Kind: SoftFail, Probe: tok, Client: busy})
	if g.ProbeDue(at(30*sec), true, busy, nil) == nil {
		t.Error("a client that leaves it to others waits longer than those that are lost")
	}
	if _, _, ok := g.TryOverdueProbe(at(30*sec), busy, nil); !ok {
		t.Error("no probe")
	}
}

// The trials of an upstream that may not be ejected are shared among the clients as well.
func TestTrial_IsLeftToOthers(t *testing.T) {
	g := sparing(t, 3, ConnectFailure)
	g.Members()[0].Upstream.SetAdmin(Maint) // its probes are no matter here
	g.Available(at(0))
	trial := func(d time.Duration, c Client) bool {
		m, _, ok := g.TryProbe(at(d), c, nil)
		return ok && m.Value == 1
	}
	if !trial(10*sec, busy) {
		t.Fatal("no trial")
	}
	for _, d := range []time.Duration{30 * sec, 30*sec + leaveTo - 1} {
		if trial(d, busy) {
			t.Errorf("the same client has the next trial at %s", d)
		}
	}
	if !trial(30*sec+leaveTo-1, other) {
		t.Error("no trial for another client")
	}
}

// weak are failures that an origin may have brought about, or written, which take an
// upstream out today.
var weak = map[string]func(g *Group, d time.Duration, c Client){
	"ends of connections":    func(g *Group, d time.Duration, c Client) { failRelayed(g, d, c, 0, 40) },
	"answers without detail": func(g *Group, d time.Duration, c Client) { failSoftly(g, d, c, 0, 40, true) },
	"and to CONNECT":         func(g *Group, d time.Duration, c Client) { failSoftly(g, d, c, 0, 40, false) },
}

// failRelayed has connections for some hosts end.
func failRelayed(g *Group, d time.Duration, c Client, from, to int) {
	for n := from; n < to; n++ {
		o := Observation{Kind: Failure, Relayed: true, Destination: reached(n).Destination, Client: c}
		g.Observe(at(d), g.Members()[0], o)
	}
}

// failSoftly has hosts that fail through member 0 and are reached through member 1.
func failSoftly(g *Group, d time.Duration, c Client, from, to int, relayed bool) {
	for n := from; n < to; n++ {
		o := Observation{Kind: SoftFail, Relayed: relayed, Destination: reached(n).Destination, Client: c}
		g.Observe(at(d), g.Members()[0], o)
		o = reached(n)
		o.Client = c
		g.Observe(at(d), g.Members()[1], o)
	}
}

// serve has a client reach something through member 0.
func serve(g *Group, d time.Duration, c Client) {
	o := reached(1000)
	o.Client = c
	g.Observe(at(d), g.Members()[0], o)
}

// What an origin may have brought about opens no circuit while it is one client's alone, and
// others are served.
func TestWeak_OneClient(t *testing.T) {
	for name, fail := range weak {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 3, exactConfig())
			circuit := func() State { return g.Members()[0].Upstream.Status().Circuit }
			serve(g, sec, other)
			fail(g, 2*sec, busy)
			serve(g, 3*sec, busy)
			fail(g, 4*sec, busy)
			if s := circuit(); s != Closed {
				t.Fatalf("others are served, and the circuit is %s", s)
			}
			// Nobody else comes any more: the client may be right.
			fail(g, time.Second+servedLately+2*sec, busy)
			if s := circuit(); s == Closed {
				t.Error("nobody else is served, and the circuit is closed")
			}
		})
	}
}

// With one client alone, or where nobody knows whose the requests are, they count at once.
func TestWeak_NobodyElse(t *testing.T) {
	for name, fail := range weak {
		for _, c := range []Client{0, busy} {
			g := newGroup(t, 3, exactConfig())
			serve(g, sec, c)
			fail(g, 2*sec, c)
			if s := g.Members()[0].Upstream.Status().Circuit; s == Closed {
				t.Errorf("%s of client %x: the circuit is closed", name, c)
			}
		}
	}
}

// Where it goes wrong for three clients, it is not the destinations of one of them, whoever
// was served before; two may be one, and are believed where nobody else is served.
func TestWeak_SeveralClients(t *testing.T) {
	for name, fail := range weak {
		for failing, clients := range map[string][]Client{"two": {busy, other}, "three": {busy, other, third}} {
			for served, who := range map[string]Client{"one of them": busy, "somebody else": ClientOf("", "198.51.100.1")} {
				g := newGroup(t, 3, exactConfig())
				serve(g, sec, who)
				for range 2 {
					for _, c := range clients {
						fail(g, 2*sec, c)
					}
				}
				want := failing == "two" && served == "somebody else"
				if got := g.Members()[0].Upstream.Status().Circuit == Closed; got != want {
					t.Errorf("%s, of %s, while %s was served: closed is %t", name, failing, served, got)
				}
			}
		}
	}
}

// An upstream that fails now and then, for everybody, goes on being judged by the rate.
func TestWeak_Rate(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	for n := range 40 {
		c := []Client{busy, other, third, ClientOf("", "192.0.2.4")}[n%4]
		if now := time.Duration(n) * 100 * ms; n%3 == 0 {
			serve(g, now, c)
		} else {
			failRelayed(g, now, c, n, n+1)
		}
	}
	if s := g.Members()[0].Upstream.Status().Circuit; s == Closed {
		t.Error("two of three fail, and the circuit is closed")
	}
}

// That a destination of another client fails as well, and is reached nowhere, does not make
// those of the first one believed.
func TestWeak_DeadDestinationOfAnother(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	serve(g, sec, third)
	g.Observe(at(2*sec), g.Members()[0], Observation{Kind: SoftFail, Destination: reached(500).Destination, Client: other})
	failSoftly(g, 2*sec, busy, 0, 40, true)
	if s := g.Members()[0].Upstream.Status().Circuit; s != Closed {
		t.Errorf("the circuit is %s", s)
	}
}

// What is the upstream's beyond doubt counts, whoever else is served.
func TestCertain_OneClient(t *testing.T) {
	for _, kind := range []Kind{Failure, ConnectFailure} {
		g := newGroup(t, 3, exactConfig())
		serve(g, sec, other)
		groupObserve(g, 0, 2*sec, 5, Observation{Kind: kind, Client: busy})
		if s := g.Members()[0].Upstream.Status().Circuit; s == Closed {
			t.Errorf("kind %d: the circuit is closed", kind)
		}
	}
}

// Who was seen, against all of the history, while there is room for all. A network has two
// places, and no more.
func TestSeenModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s seen
		last, now := make(map[Client]time.Duration), time.Duration(0)
		clients := []Client{0, busy, other, third, ClientOf("", "2001:db8::1"), ClientOf("", "2001:db8::2"), ClientOf("", "2001:db8:1::1")}
		client := rapid.SampledFrom(clients)
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				now += time.Duration(rapid.SampledFrom([]int{0, 1, 1, 2, 9, 10, 11, 100, 5000}).Draw(t, "seconds")) * sec
			},
			"serve": func(t *rapid.T) {
				c := client.Draw(t, "who")
				s.add(instantAt(now), c)
				last[c] = now
			},
			"": func(t *rapid.T) {
				for _, c := range clients[1:] {
					another, outside := false, make(map[uint32]bool)
					for o, d := range last {
						is := o != 0 && now-d <= servedLately
						another = another || is && o != c
						if is && o.network() != c.network() {
							outside[o.network()] = true
						}
					}
					network := []uint64{networkOf(seenAt(0, c))}
					if got := s.another(instantAt(now), c, servedLately); got != another {
						t.Fatalf("another one was seen: %v, want %v", got, another)
					}
					if got := s.outside(instantAt(now), network, servedLately); got != len(outside) {
						t.Fatalf("of other networks, %d were seen, want %v", got, outside)
					}
				}
			},
		})
	})
}

// A client with many addresses does not push the others out.
func TestSeen_OneNetwork(t *testing.T) {
	var s seen
	s.add(instantAt(sec), busy)
	for i := range 100 {
		s.add(instantAt(time.Duration(i)*sec/10+sec), ClientOf("", fmt.Sprintf("2001:db8::%x", i+1)))
	}
	if s.outside(instantAt(11*sec), []uint64{networkOf(seenAt(0, ClientOf("", "2001:db8::1")))}, servedLately) != 1 {
		t.Error("nobody else was seen")
	}
}

// Requests of many clients end at once: none is in the way of another, and what follows
// is seen.
func TestLately_Concurrent(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			c := []Client{busy, other, third, 0}[w]
			for n := range 1000 {
				now := time.Duration(n) * 10 * ms
				serve(g, now, c)
				failRelayed(g, now, c, n, n+1)
				failSoftly(g, now, c, n, n+1, true)
			}
		})
	}
	wg.Wait()
	u := g.Members()[0].Upstream
	for _, c := range []Client{busy, other} {
		serve(g, 20*sec, c)
	}
	for _, c := range []Client{busy, other, third} {
		if !u.served.another(instantAt(20*sec), c, servedLately) {
			t.Errorf("others than %x were served", c)
		}
	}
}
