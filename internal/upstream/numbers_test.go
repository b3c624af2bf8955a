package upstream

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-egress/egress/internal/orders"
)

// This file tests what upstreams are known by where several handlers have groups of one name.

// configuration are handlers, each with a group of the same name, at one address.
type configuration struct {
	host   string
	groups map[string]*Group
}

// provision makes a configuration that does not run yet. Each handler is its place and the
// logins of its group: "a u:1 u:2". They are provisioned in that order.
func provision(t *testing.T, host string, handlers ...string) *configuration {
	t.Helper()
	c := &configuration{host, make(map[string]*Group)}
	for _, h := range handlers {
		words := strings.Fields(h)
		c.groups[words[0]] = mustNew(t, Config{Configuration: c, Handler: words[0], Static: at(t, host, words[1:]...)})
	}
	return c
}

func (c *configuration) start() *configuration {
	for _, g := range c.groups {
		g.Start()
	}
	return c
}

func (c *configuration) close() {
	for _, g := range c.groups {
		g.Close()
	}
}

// reload has one configuration take the place of another, as Caddy does it.
func (c *configuration) reload(t *testing.T, handlers ...string) *configuration {
	t.Helper()
	next := provision(t, c.host, handlers...).start()
	c.close()
	return next
}

// members are those of all handlers, by login.
func (c *configuration) members() map[string]*Member {
	all := make(map[string]*Member)
	for _, g := range c.groups {
		for _, m := range g.Members() {
			all[m.Spec.Login.User+":"+m.Spec.Login.Password] = m
		}
	}
	return all
}

// ids checks that no two upstreams share an ID, and returns them by login.
func (c *configuration) ids(t *testing.T, when string) map[string]string {
	t.Helper()
	ids, of := make(map[string]string), make(map[string]string)
	for login, m := range c.members() {
		if other := of[m.ID()]; other != "" {
			t.Errorf("%s: %s and %s are both %s", when, login, other, m.ID())
		}
		ids[login], of[m.ID()] = m.ID(), login
	}
	return ids
}

func expectIDs(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// Accounts at one address that are in different handlers have IDs of their own, and keep them,
// and what is ordered of them, whatever the order in which handlers come.
func TestNumbers_Handlers(t *testing.T) {
	for i, logins := range [][2]string{{"u:1", "u:2"}, {"u:2", "u:1"}, {"u1:p", "u2:p"}} {
		for j, drained := range logins {
			t.Run(fmt.Sprint(logins, drained), func(t *testing.T) {
				host := fmt.Sprintf("handlers-%d-%d.example", i, j)
				a, b := "a "+logins[0], "b "+logins[1]
				c := provision(t, host, a, b).start()
				ids := c.ids(t, "at first")
				drain(t, c.members()[drained])
				check := func(when string) {
					t.Helper()
					expectIDs(t, when, c.ids(t, when), ids)
					expectAdmin(t, when, c.members(), drained)
				}
				check("ordered")
				for n := range 3 {
					c = c.reload(t, b, a)
					check("the other way round")
					c = c.reload(t, a, b)
					check(fmt.Sprint("reload ", n))
				}
				c = c.reload(t, "a "+logins[1], "b "+logins[0])
				check("swapped")
				c = c.reload(t, "b "+logins[1], "a "+logins[0])
				check("swapped back")
				c = c.reload(t, "b "+logins[0]+" "+logins[1], "c "+logins[1])
				check("elsewhere")
				for _, again := range [][]string{{a, b}, {b, a}, {"a " + logins[1], "b " + logins[0]}} {
					c.close()
					if n := len(identities.of) + len(identities.groups); n != 0 {
						t.Fatalf("%d are left", n)
					}
					c = provision(t, host, again...)
					check("restart")
					c.start()
					check("restart, started")
				}
			})
		}
	}
}

// Without orders, the numbers hang on the configuration alone, and not on the order in which
// Caddy comes to the handlers.
func TestNumbers_Restart(t *testing.T) {
	const host = "restart.example"
	c := provision(t, host, "a u:1", "b u:2 u:1", "c u:3").start()
	ids := c.ids(t, "at first")
	c.close()
	for _, handlers := range [][]string{{"c u:3", "b u:2 u:1", "a u:1"}, {"b u:2 u:1", "c u:3", "a u:1"}} {
		c = provision(t, host, handlers...).start()
		expectIDs(t, "restart", c.ids(t, "restart"), ids)
		c.close()
	}
}

// A change of passwords changes no ID, and takes no order away, in whatever handlers the
// upstream is.
func TestNumbers_Passwords(t *testing.T) {
	for i, tc := range []struct {
		name    string
		before  []string // handlers
		drained string
		after   []string
		want    string // who is drained then; empty: nobody
		same    string // who has the ID that drained had; empty: want
	}{
		{"one", []string{"a u:1"}, "u:1", []string{"a u:2"}, "u:2", ""},
		{"in two handlers", []string{"a u:1", "b u:1"}, "u:1", []string{"a u:2", "b u:2"}, "u:2", ""},
		{"in one of two handlers", []string{"a u:1", "b u:1"}, "u:1", []string{"a u:2", "b u:1"}, "u:1", ""},
		{"of an account of one handler", []string{"a u:1", "b u:2"}, "u:1", []string{"a u:3", "b u:2"}, "u:3", ""},
		{"of the other", []string{"a u:1", "b u:2"}, "u:1", []string{"a u:1", "b u:3"}, "u:1", ""},
		{"of both", []string{"a u:1", "b u:2"}, "u:2", []string{"a u:3", "b u:4"}, "u:4", ""},
		{"of all in a group", []string{"a u:1 u:2"}, "u:2", []string{"a u:3 u:4"}, "u:4", ""},
		{"of one in a group", []string{"a u:1 u:2 u:3"}, "u:2", []string{"a u:1 u:4 u:3"}, "u:4", ""},
		{"behind one that goes", []string{"a u:1 u:2"}, "u:2", []string{"a u:3"}, "u:3", ""},
		{"of one that moves away from its place", []string{"a u:1", "b u:2"}, "u:1", []string{"a u:3", "b u:2", "c u:1"}, "u:1", ""},
		{"of the only one, elsewhere", []string{"a u:1"}, "u:1", []string{"b u:2"}, "u:2", ""},
		{"of nobody: two come for one", []string{"a u:1"}, "u:1", []string{"a u:2 u:3"}, "", ""},
		{"of nobody: one goes, another handler comes", []string{"a u:1", "b u:2"}, "u:1", []string{"b u:2", "c u:3"}, "", ""},
		{"of nobody: another user", []string{"a u:1"}, "u:1", []string{"a v:1"}, "", ""},
		{"of two that become one", []string{"a u:1", "b u:2"}, "u:2", []string{"a u:3", "b u:3"}, "u:3", ""},
	} {
		for _, way := range []string{"", "reversed"} {
			t.Run(tc.name+" "+way, func(t *testing.T) {
				if way != "" {
					tc.after = slices.Clone(tc.after)
					slices.Reverse(tc.after)
				}
				c := provision(t, fmt.Sprintf("passwords-%d-%s.example", i, way), tc.before...).start()
				id := c.ids(t, "before")[tc.drained]
				drain(t, c.members()[tc.drained])
				var want []string
				if tc.want != "" {
					want = []string{tc.want}
				}
				for range 3 {
					next := provision(t, c.host, tc.after...)
					next.ids(t, "provisioned")
					if !strings.Contains(tc.name, "elsewhere") { // that the old place is empty is known when it runs
						expectAdmin(t, "provisioned", next.members(), want...)
					}
					expectAdmin(t, "while another one is provisioned", c.members(), drainedOf(c, id)...)
					next.close()
				}
				c = c.reload(t, tc.after...)
				ids := c.ids(t, "after")
				expectAdmin(t, "after", c.members(), want...)
				if tc.want != "" && ids[tc.want] != id {
					t.Errorf("%s has another ID", tc.want)
				}
				for range 2 {
					c = c.reload(t, tc.after...)
					expectIDs(t, "once more", c.ids(t, "once more"), ids)
					expectAdmin(t, "once more", c.members(), want...)
				}
				c.close()
				slices.Reverse(tc.after)
				c = provision(t, c.host, tc.after...).start()
				c.ids(t, "restart")
				expectAdmin(t, "restart", c.members(), want...)
			})
		}
	}
}

// drainedOf is who has an ID.
func drainedOf(c *configuration, id string) (logins []string) {
	for login, m := range c.members() {
		if m.ID() == id {
			logins = append(logins, login)
		}
	}
	return logins
}

// Two handlers that read one list do not do so at the same moment: the upstream whose password
// changes is the same one when both have.
func TestNumbers_Lists(t *testing.T) {
	const host = "lists.example"
	c := provision(t, host, "a u:1", "b u:1").start()
	id := c.ids(t, "at first")["u:1"]
	drain(t, c.members()["u:1"])
	set := func(handler string, logins ...string) {
		t.Helper()
		g := c.groups[handler]
		if err := g.replace(&g.static, at(t, host, logins...)); err != nil {
			t.Fatal(err)
		}
	}
	set("a", "u:2")
	c.ids(t, "one has changed")
	expectAdmin(t, "one has changed", c.members(), "u:1")
	set("b", "u:2")
	if got := c.ids(t, "both have changed")["u:2"]; got != id {
		t.Errorf("%s, want %s", got, id)
	}
	expectAdmin(t, "both have changed", c.members(), "u:2")

	// What has become another one in between, for an order of its own, stays that.
	set("a", "u:3")
	drain(t, c.members()["u:3"])
	other := c.members()["u:3"].ID()
	set("b", "u:3")
	if got := c.members()["u:3"].ID(); got != other {
		t.Errorf("%s, want %s", got, other)
	}
	// An order that has nobody stays for when its upstream comes back.
	set("b", "u:3", "u:2")
	expectAdmin(t, "it is back", c.members(), "u:3", "u:2")
}

// A list that changes while another configuration is about to run does not give away the ID of
// an account that only that one has now.
func TestNumbers_WhileLoading(t *testing.T) {
	const host = "loading.example"
	c := provision(t, host, "a u:0", "c u:2").start()
	id := c.ids(t, "at first")["u:2"]
	drain(t, c.members()["u:2"])
	next := provision(t, host, "a u:0 u:2", "b u:3", "c u:0")
	g := c.groups["c"]
	if err := g.replace(&g.static, at(t, host, "u:3")); err != nil {
		t.Fatal(err)
	}
	next.start()
	c.close()
	if ids := next.ids(t, "it runs"); ids["u:2"] != id {
		t.Errorf("%v, want %s", ids, id)
	}
	expectAdmin(t, "it runs", next.members(), "u:2")
}

// An account that may still become another one keeps its ID until then, whoever comes.
func TestNumbers_Waits(t *testing.T) {
	const host = "waits.example"
	c := provision(t, host, "b u:1", "c u:1").start()
	g := c.groups["c"]
	if err := g.replace(&g.static, at(t, host, "u:2")); err != nil {
		t.Fatal(err)
	}
	id := c.ids(t, "one has changed")["u:2"]
	c = c.reload(t, "a u:3", "b u:1", "c u:2")
	if ids := c.ids(t, "another one comes"); ids["u:2"] != id {
		t.Errorf("%v, want %s", ids, id)
	}
}

// What was ordered of the only account is nothing to the only one that is left of others that
// came when it went: neither then nor after a restart.
func TestNumbers_NotAlone(t *testing.T) {
	const host = "alone.example"
	c := provision(t, host, "a u:0 u:1").start()
	drain(t, c.members()["u:0"])
	for _, logins := range []string{"u:0", "u:3 u:2 u:1", "u:3"} {
		g := c.groups["a"]
		if err := g.replace(&g.static, at(t, host, strings.Fields(logins)...)); err != nil {
			t.Fatal(err)
		}
	}
	expectAdmin(t, "another one is left", c.members())
	c.close()
	expectAdmin(t, "restart", provision(t, host, "a u:3").start().members())
}

// A configuration that does not come to run changes no order, and one that is tried while an
// order holds does not have it.
func TestNumbers_FailedLoad(t *testing.T) {
	const host = "failed.example"
	c := provision(t, host, "a u:1").start()
	m := c.members()["u:1"]
	drain(t, m)
	before := orders.Of.Upstreams()
	for _, handlers := range [][]string{{"a u:2"}, {"a u:1 u:2"}, {"b u:2", "a u:1"}} {
		failed := provision(t, host, handlers...)
		if now := orders.Of.Upstreams(); !maps.Equal(now, before) {
			t.Errorf("%v: %v, want %v", handlers, now, before)
		}
		failed.close()
		if now := orders.Of.Upstreams(); !maps.Equal(now, before) {
			t.Errorf("%v has gone: %v, want %v", handlers, now, before)
		}
	}
	expectAdmin(t, "in the end", c.members(), "u:1")
}

// Lists that change, configurations that come and go, and orders, all at once, leave IDs that
// are unique, and nothing behind.
func TestNumbers_Concurrent(t *testing.T) {
	const host = "concurrent.example"
	c := provision(t, host, "a u:1", "b u:2", "c u:3").start()
	m := c.groups["c"].Members()[0]
	drain(t, m)
	var all sync.WaitGroup
	for handler, logins := range map[string][]string{"a": {"u:4", "u:5", "u:1"}, "b": {"u:5", "u:4", "u:2"}} {
		specs := make([][]*Spec, len(logins))
		for i := range logins {
			specs[i] = at(t, host, logins[i])
		}
		all.Go(func() {
			for n := range 60 {
				if err := c.groups[handler].replace(&c.groups[handler].static, specs[n%len(specs)]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 20 {
			provision(t, host, "b u:4", "a u:5", "c u:6").close()
		}
	})
	all.Go(func() {
		for range 100 {
			orders.Of.Look()
			if id := m.ID(); id == "" || !orders.Of.IsAttached(id) {
				t.Errorf("'%s' is not attached", id)
			}
		}
	})
	all.Wait()
	c.ids(t, "in the end")
	expectAdmin(t, "in the end", map[string]*Member{"u:3": m}, "u:3")
	c.close()
	if n := len(identities.of) + len(identities.groups); n != 0 || identities.running != nil {
		t.Errorf("%d are left", n)
	}
}
