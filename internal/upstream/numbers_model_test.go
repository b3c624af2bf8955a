package upstream

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
)

// Whatever happens, in whatever order: no two accounts share an ID, one that stays keeps its ID
// and its order, unless it stood in for one that has gone; a load that fails and a restart
// change nothing.
func TestNumbers_Model(t *testing.T) {
	bad := 0
	for seed := range 400 {
		r := rand.New(rand.NewSource(int64(seed)))
		host := fmt.Sprintf("model-%d.example", seed)
		var trace []string
		randomConf := func() []string {
			var hs []string
			for _, name := range []string{"a", "b", "c"} {
				if r.Intn(3) == 0 && len(hs) > 0 {
					continue
				}
				var logins []string
				for _, p := range r.Perm(5)[:1+r.Intn(3)] {
					logins = append(logins, fmt.Sprintf("u:%d", p))
				}
				hs = append(hs, name+" "+strings.Join(logins, " "))
			}
			r.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
			return hs
		}
		fail := func(format string, args ...any) {
			bad++
			if bad < 6 {
				t.Errorf("seed %d: %s\n  %s", seed, fmt.Sprintf(format, args...), strings.Join(trace, "\n  "))
			}
		}
		state := func(c *configuration) (ids map[string]string, drained map[string]bool) {
			ids, drained = map[string]string{}, map[string]bool{}
			of := map[string]string{}
			for _, g := range c.groups {
				for _, m := range g.Members() {
					l := m.Spec.Login.User + ":" + m.Spec.Login.Password
					if was, ok := ids[l]; ok && was != m.ID() {
						fail("%s has two ids", l)
					}
					ids[l] = m.ID()
					if o, ok := of[m.ID()]; ok && o != l {
						fail("%s and %s share %s", o, l, m.ID()[:4])
					}
					of[m.ID()] = l
					drained[l] = m.Health.Status().Admin == health.Drain
					_, ordered := orders.Of.Upstream(m.ID())
					if ordered != drained[l] {
						fail("%s: ordered %v drained %v", l, ordered, drained[l])
					}
				}
			}
			return
		}
		waiting := func(c *configuration) map[string]bool {
			w := map[string]bool{}
			for l, m := range c.members() {
				w[l] = !m.Health.identity.settled
			}
			return w
		}
		takesOver := func(c *configuration, l string) bool {
			m := c.members()[l]
			return slices.ContainsFunc(m.Health.identity.replaces, func(n int) bool { return m.Health.identity.account.id(n) == m.ID() })
		}
		show := func(c *configuration) string {
			ids, dr := state(c)
			s := ""
			for _, l := range slices.Sorted(maps.Keys(ids)) {
				s += fmt.Sprintf(" %s=%s", l, ids[l][:4])
				if dr[l] {
					s += "!"
				}
			}
			return s
		}
		conf := randomConf()
		c := provision(t, host, conf...).start()
		trace = append(trace, "start "+fmt.Sprint(conf)+show(c))
		nbad := bad
		given := 0
		for step := 0; step < 8 && bad == nbad; step++ {
			ids, drained := state(c)
			waits := waiting(c)
			switch k := r.Intn(10); {
			case k < 3: // order
				logins := slices.Sorted(maps.Keys(ids))
				l := logins[r.Intn(len(logins))]
				to := health.Drain
				if drained[l] {
					to = health.Ready
				} else {
					given++
				}
				_, _, _ = orders.Of.Change(ids[l], orders.Order{Weight: 1}, func(o *orders.Order) error { o.Admin = to; return nil })
				trace = append(trace, fmt.Sprint("order ", l, to, show(c)))
				ids2, dr2 := state(c)
				drained[l] = to == health.Drain
				if !maps.Equal(ids, ids2) || !maps.Equal(drained, dr2) {
					fail("order changes others")
				}
			case k < 6: // reload
				next := randomConf()
				n := provision(t, host, next...)
				trace = append(trace, "RELOADING "+fmt.Sprint(next))
				mid := show(n)
				if r.Intn(3) == 0 {
					ls := slices.Sorted(maps.Keys(ids))
					l := ls[r.Intn(len(ls))]
					to := health.Drain
					if drained[l] {
						to = health.Ready
					}
					_, _, _ = orders.Of.Change(ids[l], orders.Order{Weight: 1}, func(o *orders.Order) error { o.Admin = to; return nil })
					drained[l] = to == health.Drain
					mid += fmt.Sprint(" ordered ", l, to, show(n))
				}
				if r.Intn(3) == 0 {
					var names []string
					for n := range c.groups {
						names = append(names, n)
					}
					slices.Sort(names)
					h := names[r.Intn(len(names))]
					var logins []string
					for _, p := range r.Perm(5)[:1+r.Intn(3)] {
						logins = append(logins, fmt.Sprintf("u:%d", p))
					}
					g := c.groups[h]
					if err := g.replace(&g.static, at(t, host, logins...)); err != nil {
						t.Fatal(err)
					}
					trace = append(trace, "MIDLIST "+h+fmt.Sprint(logins))
					mid += fmt.Sprint(" old list ", h, logins, show(c))
					ids2, dr2 := state(c)
					for l := range ids2 {
						if was, ok := ids[l]; ok && (was != ids2[l] || drained[l] != dr2[l]) && !(waits[l] && takesOver(c, l)) {
							fail("midlist %s: id %s→%s drained %v→%v", l, was[:4], ids2[l][:4], drained[l], dr2[l])
						}
					}
				}
				n.start()
				trace = append(trace, "CLOSING")
				show(n)
				c.close()
				c = n
				trace = append(trace, "reload "+fmt.Sprint(next)+" provisioned:"+mid+" after:"+show(c))
				ids2, dr2 := state(c)
				for l := range ids2 {
					if was, ok := ids[l]; ok && (was != ids2[l] || drained[l] != dr2[l]) && !(waits[l] && takesOver(c, l)) {
						fail("%s: id %s→%s drained %v→%v", l, was[:4], ids2[l][:4], drained[l], dr2[l])
					}
				}
				conf = next
			case k < 7: // failed load
				next := randomConf()
				n := provision(t, host, next...)
				mid := show(n)
				n.close()
				trace = append(trace, "failed "+fmt.Sprint(next)+mid+" after:"+show(c))
				ids2, dr2 := state(c)
				if !maps.Equal(ids, ids2) || !maps.Equal(drained, dr2) {
					fail("failed load changes")
				}
			case k < 9: // list change
				var names []string
				for n := range c.groups {
					names = append(names, n)
				}
				slices.Sort(names)
				h := names[r.Intn(len(names))]
				var logins []string
				for _, p := range r.Perm(5)[:1+r.Intn(3)] {
					logins = append(logins, fmt.Sprintf("u:%d", p))
				}
				g := c.groups[h]
				if err := g.replace(&g.static, at(t, host, logins...)); err != nil {
					t.Fatal(err)
				}
				for i := range conf {
					if strings.HasPrefix(conf[i], h+" ") {
						conf[i] = h + " " + strings.Join(logins, " ")
					}
				}
				trace = append(trace, "list "+h+fmt.Sprint(logins)+show(c))
				ids2, dr2 := state(c)
				for l := range ids2 {
					if was, ok := ids[l]; ok && (was != ids2[l] || drained[l] != dr2[l]) && !(waits[l] && takesOver(c, l)) {
						fail("%s: id %s→%s drained %v→%v", l, was[:4], ids2[l][:4], drained[l], dr2[l])
					}
				}
			default: // restart
				c.close()
				if len(identities.of)+len(identities.groups) > 0 {
					fail("left")
				}
				c = provision(t, host, conf...)
				mid := show(c)
				c.start()
				trace = append(trace, "restart "+mid+" after:"+show(c))
				_, dr2 := state(c)
				if !maps.Equal(drained, dr2) {
					fail("restart: drained %v→%v", drained, dr2)
				}
			}
		}
		c.close()
		for id := range orders.Of.Upstreams() {
			_, _, _ = orders.Of.Change(id, orders.Order{Weight: 1}, func(o *orders.Order) error { o.Admin = health.Ready; o.Weight = 1; return nil })
		}
	}
}
