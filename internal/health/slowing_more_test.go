package health

import (
	"fmt"
	"testing"
	"time"
)

// What is reached in absolute form may be for everybody, and is never known: where a tunnel is
// refused, it takes nothing back, as a 407 to it counts for nothing.
func TestSlowing_AbsoluteForm(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	clients := manyClientsOf(50)
	refused := 0
	for n := range 100 * 60 {
		now := sec + time.Duration(n)*10*ms
		if n%2 == 0 {
			o := accepted(1<<20, third)
			o.Absolute = true
			asks(g, now, o)
			continue
		}
		if asked, _ := asks(g, now, refusal(n, clients[n/2%50])); asked {
			refused++
		}
	}
	if refused > slowAfter+60+20 {
		t.Errorf("%d refusals in a minute", refused)
	}
}

// However many requests are under way at once, it is asked about once a second.
func TestSlowing_ManyAtOnce(t *testing.T) {
	g, now := slowed(t, 1)
	m, clients := g.Members()[0], manyClientsOf(50)
	type answer struct {
		at time.Duration
		o  Observation
	}
	var under []answer // a parent that takes half a second
	refused := 0
	for n, end := 0, now+time.Minute; now < end; n, now = n+1, now+10*ms {
		for len(under) > 0 && under[0].at <= now {
			g.Observe(at(now), m, under[0].o)
			under = under[1:]
		}
		o := refusal(1<<20+n, clients[n%50])
		o.Destination = Destination(fmt.Sprintf("new%d.example:443", n))
		if g.Keeping(at(now), o.Client, o.Destination)(m) == NotKept {
			m.Upstream.Asks(at(now), o.Destination)
			refused++
			under = append(under, answer{now + 500*ms, o})
		}
	}
	if refused > 60+10 {
		t.Errorf("%d requests in a minute", refused)
	}
}

// What is refused while tunnels to others are opened is forbidden; where the credentials may be
// wrong, nothing is.
func TestForbids(t *testing.T) {
	bank := Destination("bank.example:443")
	refuse := func(d uint64) Observation { return Observation{Kind: AuthFault, Destination: d, Client: busy} }
	for name, tc := range map[string]struct {
		before []Observation
		after  time.Duration
		want   bool
	}{
		"others are reached":            {[]Observation{accepted(1, third), refuse(bank)}, sec, true},
		"it is refused again and again": {[]Observation{accepted(1, third), refuse(bank), refuse(bank), refuse(bank)}, sec, true},
		"nothing is":                    {[]Observation{refuse(bank)}, sec, false},
		"they were long ago":            {[]Observation{accepted(1, third)}, 2 * time.Minute, false},
		"it was reached itself":         {[]Observation{accepted(1, third), {Kind: Success, Reached: true, Destination: bank}}, sec, false},
		"they are refused now":          {[]Observation{accepted(1, third), refusal(1, third)}, sec, false},
		"one is, and others are not":    {[]Observation{accepted(1, third), accepted(2, third), refusal(1, third), accepted(2, third)}, sec, true},
		"in absolute form":              {[]Observation{{Kind: Success, Reached: true, Absolute: true, Destination: 7}}, sec, false},
		"it is out":                     {[]Observation{accepted(1, third), refusal(1, third), refusal(1, third)}, 6 * sec, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 1, exactConfig())
			for n, o := range tc.before {
				g.Observe(at(sec+time.Duration(n)*ms), g.Members()[0], o)
			}
			if got := g.Members()[0].Upstream.Forbids(at(sec+tc.after), bank); got != tc.want {
				t.Errorf("%t", got)
			}
		})
	}
}

// Where all members refuse much, nobody is left without one.
func TestSlowing_AllRefuse(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	clients := manyClientsOf(50)
	for _, m := range g.Members() {
		g.Observe(at(0), m, accepted(1<<20, other))
	}
	for n := range 100 * 60 {
		now := sec + time.Duration(n)*10*ms
		o := refusal(n, clients[n%50])
		o.Destination = Destination(fmt.Sprintf("site%d.example:443", n))
		keeping, last, first := g.Keeping(at(now), third, Destination("new.example:443")), 0, 0
		for _, m := range g.Members() {
			switch keeping(m) {
			case NotKept:
				first++
			case KeptSlow:
				last++
			}
		}
		if last > 0 && first == 0 {
			t.Fatalf("at %s: %d are asked last, and nobody first", now, last)
		}
		for _, m := range g.Members() {
			if k := g.Keeping(at(now), o.Client, o.Destination)(m); k == NotKept {
				m.Upstream.Asks(at(now), o.Destination)
				g.Observe(at(now), m, o)
			}
		}
	}
	for _, m := range g.Members() {
		if !m.Upstream.Report(at(61*sec), g.Config()).Refusing {
			t.Error("one is asked as often as before")
		}
	}
}
