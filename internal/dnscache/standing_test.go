package dnscache

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// Only several names in a row, and a check, show that a server is down; it is checked
// again after a pause.
func TestStanding(t *testing.T) {
	now := time.Now()
	var s standing
	wantUp := func(at time.Time, up, check bool) {
		t.Helper()
		if u, c := s.up(at); u != up || c != check {
			t.Errorf("up %t, to be checked %t", u, c)
		}
	}
	miss := func(name string, check bool) {
		t.Helper()
		if s.miss(name) != check {
			t.Errorf("%s: to be checked: %t", name, !check)
		}
	}
	for range 10 {
		miss("a.test", false) // one name is none of the server's business
	}
	miss("b.test", false)
	s.answered()
	miss("c.test", false)
	miss("d.test", false)
	miss("e.test", true)
	wantUp(now, true, false) // as long as nothing is found
	miss("f.test", false)    // one check at a time
	s.checked(true, now)
	wantUp(now, true, false)

	for i := range missesToCheck {
		miss(fmt.Sprint(i, ".test"), i == missesToCheck-1)
	}
	s.checked(false, now)
	wantUp(now, false, false)
	wantUp(now.Add(downFor-1), false, false)
	miss("g.test", false)
	wantUp(now.Add(downFor), false, true)
	wantUp(now.Add(downFor), false, false)
	now = now.Add(downFor)
	s.checked(false, now)
	wantUp(now.Add(downFor-1), false, false)
	wantUp(now.Add(downFor), false, true)
	s.checked(true, now)
	wantUp(now, true, false)

	for i := range missesToCheck {
		miss(fmt.Sprint(i, ".test"), i == missesToCheck-1)
	}
	s.checked(false, now)
	s.answered() // it was asked last, and told
	wantUp(now, true, false)
}

// A server is checked as well when others answer what it gave no answer about, again and
// again: one name that is asked for shows that, too. Once is not enough: answers get lost.
func TestStanding_Outdone(t *testing.T) {
	var s standing
	for i := range outdoneToCheck {
		if s.miss("a.test") {
			t.Fatal("one name is enough by itself")
		}
		if check := s.outdone(); check != (i == outdoneToCheck-1) {
			t.Errorf("%d: to be checked: %t", i, check)
		}
	}
	if s.outdone() {
		t.Error("two checks at a time")
	}
	s.checked(true, time.Now())
	for range outdoneToCheck - 1 {
		s.outdone()
	}
	s.answered()
	if s.outdone() {
		t.Error("an answer does not count")
	}
}

// Clients that ask for one name only do not wait for a server that is down, question after
// question.
func TestClientServerDownForOneName(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	first.Set(".", dnstest.Records{Silent: true})
	first.Set("origin.test", dnstest.Records{Silent: true})
	second.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 5})
	c := newClient(t, nil, first.Addr, second.Addr)
	c.servers[0].try = 50 * time.Millisecond
	for range outdoneToCheck {
		if _, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return c.order("origin.test", IPv4)[0] == c.servers[1] })
}

// A server that gives no answer about a name which the next one answers for, and answers
// others, stays the first.
func TestClientServerUpForOthers(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	first.Set(".", dnstest.Records{Silent: true})
	first.Set("known.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	first.Set("origin.test", dnstest.Records{Silent: true})
	second.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 5})
	c := newClient(t, nil, first.Addr, second.Addr)
	c.servers[0].try = TryTimeout / 2
	if _, err := c.Lookup(t.Context(), "known.test", IPv4); err != nil {
		t.Fatal(err)
	}
	for range outdoneToCheck {
		if _, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil {
			t.Fatal(err)
		}
	}
	s := &c.servers[0].standing
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return first.Asked("known.test") > 1 && !s.checking
	})
	if c.order("order.test", IPv4)[0] != c.servers[0] {
		t.Error("it is asked last")
	}
}

// Whoever asks for names that nobody answers for does not change which server is asked
// first: split-horizon names and filters depend on it.
func TestClientSlowNames(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	c := newClient(t, nil, first.Addr, second.Addr)
	c.servers[0].try = TryTimeout
	var wg sync.WaitGroup
	for i := range 3 * missesToCheck {
		name := fmt.Sprint("slow", i, ".test")
		first.Set(name, dnstest.Records{Silent: true})
		wg.Go(func() {
			if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := &c.servers[0].standing
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return first.Asked("NS") > 0 && !s.checking
	})
	if c.order("order.test", IPv4)[0] != c.servers[0] {
		t.Error("it is asked last")
	}
}

// A server that is silent altogether is asked last, and first again when it is well.
func TestClientServerReturns(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	first.Set(".", dnstest.Records{Silent: true})
	c := newClient(t, nil, first.Addr, second.Addr)
	c.servers[0].try = 50 * time.Millisecond
	for i := range missesToCheck {
		name := fmt.Sprint("slow", i, ".test")
		first.Set(name, dnstest.Records{Silent: true})
		if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return c.order("order.test", IPv4)[0] == c.servers[1] })
	asked := first.Asked("udp")
	if _, err := c.Lookup(t.Context(), "other.test", IPv4); err != nil || first.Asked("udp") != asked {
		t.Errorf("%v; the server that is down was asked", err)
	}
	first.Set(".", dnstest.Records{})
	s := &c.servers[0].standing
	s.mu.Lock()
	s.downTill = time.Now() // the pause is over
	s.mu.Unlock()
	await(t, func() bool { return c.order("order.test", IPv4)[0] == c.servers[0] })
}

// A server that drops questions about the root is not taken to be down while it answers
// others: those that it has answered before.
func TestClientServerWithoutRoot(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	first.Set(".", dnstest.Records{Silent: true})
	first.Set("origin.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	c := newClient(t, nil, first.Addr, second.Addr)
	if _, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil {
		t.Fatal(err)
	}
	s := &c.servers[0].standing
	c.servers[0].try = TryTimeout / 2
	for i := range missesToCheck {
		name := fmt.Sprint("slow", i, ".test")
		first.Set(name, dnstest.Records{Silent: true})
		if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return first.Asked("origin.test") > 1 && !s.checking // the question about the root may not have left by then
	})
	if c.order("order.test", IPv4)[0] != c.servers[0] {
		t.Error("it is asked last")
	}
}

// A server that is down gets the question that somebody has when its pause is over: an
// answer to that brings it back, an error too.
func TestClientServerReturnsByQuestion(t *testing.T) {
	noLeaks(t)
	first, second := dnstest.Start(t), dnstest.Start(t)
	first.Set(".", dnstest.Records{Silent: true})
	first.Set("origin.test", dnstest.Records{Rcode: dns.RcodeServerFailure})
	c := newClient(t, nil, first.Addr, second.Addr)
	c.servers[0].try = TryTimeout
	s := &c.servers[0].standing
	s.checked(false, time.Now().Add(-downFor))
	if _, err := c.Lookup(t.Context(), "origin.test", IPv4); err != nil || second.Asked("udp") == 0 {
		t.Fatal(err)
	}
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.downTill.IsZero()
	})
}

// Of the questions that a server has answered, some are remembered, each once.
func TestStandingRemembersQuestions(t *testing.T) {
	var s standing
	for i := range 10 * knownQuestions {
		s.told(known{fmt.Sprint(i, ".test."), dns.TypeA})
		s.told(known{fmt.Sprint(i, ".test."), dns.TypeA})
	}
	seen := make(map[string]bool)
	for _, q := range s.questions() {
		seen[q.Question[0].Name] = true
	}
	if len(seen) != 1+knownQuestions || !seen["."] {
		t.Error(seen)
	}
}

// What fails for want of a descriptor is not charged to the server.
func TestOwnFaultsAreNoMisses(t *testing.T) {
	e := &exchanger{}
	for i := range 2 * missesToCheck {
		e.missed(fmt.Sprint(i, ".test"), fmt.Errorf("dial: %w", syscall.EMFILE))
	}
	if len(e.standing.missed) != 0 || e.standing.checking {
		t.Error("charged")
	}
}
