package health

import (
	"testing"
	"time"
)

// A member that cuts every POST is found out although it answers all else: nothing but an
// answered POST forgives that.
func TestCuts(t *testing.T) {
	cut := func(n int, c Client) Observation {
		return Observation{Kind: Failure, Relayed: true, Alone: true, Unsafe: true, Destination: reached(n).Destination, Client: c}
	}
	answer := func(n int, c Client, unsafe bool) Observation {
		return Observation{Kind: Success, Reached: true, Absolute: true, Unsafe: unsafe, Destination: reached(n).Destination, Client: c}
	}
	for name, tc := range map[string]struct {
		clients   []Client
		hosts     int
		elsewhere bool // POSTs are answered through another member
		answers   bool // some POSTs are answered
		out       bool
	}{
		"every POST":                 {manyClientsOf(10), 20, true, false, true},
		"of one client":              {[]Client{busy}, 20, true, false, false},
		"of few hosts":               {manyClientsOf(10), 4, true, false, false},
		"that nobody else answers":   {manyClientsOf(10), 20, false, false, false},
		"but some that are answered": {manyClientsOf(10), 20, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 3, exactConfig())
			m := g.Members()
			for n := range 100 {
				now, c := at(sec+time.Duration(n)*50*ms), tc.clients[n%len(tc.clients)]
				g.Observe(now, m[0], answer(n%20, c, false))
				g.Observe(now, m[0], answer(1000+n, other, false))
				g.Observe(now, m[0], cut(n%tc.hosts, c))
				g.Observe(now, m[1], answer(n%tc.hosts, c, tc.elsewhere))
				if tc.answers && n%4 == 0 {
					g.Observe(now, m[0], answer(n%tc.hosts, c, true))
				}
			}
			if out := !m[0].Upstream.Status().InRotation(); out != tc.out {
				t.Errorf("out is %t", out)
			}
		})
	}
}
