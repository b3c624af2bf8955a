package upstream

import (
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
)

// at are upstreams at one address, by user and password.
func at(t *testing.T, host string, logins ...string) (specs []*Spec) {
	t.Helper()
	addr, err := ParseURL("http://"+host+":3128", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, login := range logins {
		user, password, _ := strings.Cut(login, ":")
		specs = append(specs, &Spec{Addr: addr, Weight: 1, Login: &Login{User: user, Password: password}})
	}
	return specs
}

// list makes upstreams those of a list, and returns the members by user and password.
func (g *Group) list(t *testing.T, specs []*Spec) map[string]*Member {
	t.Helper()
	if err := g.replace(&g.listed, specs); err != nil {
		t.Fatal(err)
	}
	members := make(map[string]*Member)
	for _, m := range g.Members() {
		if l := m.Spec.Login; l != nil {
			members[l.User+":"+l.Password] = m
		}
	}
	return members
}

// drain orders that an upstream is taken out of rotation, until the test ends.
func drain(t *testing.T, m *Member) {
	t.Helper()
	id := m.ID()
	order := func(admin health.Admin) {
		if _, _, err := orders.Of.Change(id, orders.Order{Weight: 1}, func(o *orders.Order) error { o.Admin = admin; return nil }); err != nil {
			t.Error(err)
		}
	}
	order(health.Drain)
	t.Cleanup(func() { order(health.Ready) })
}

func expectAdmin(t *testing.T, when string, members map[string]*Member, drained ...string) {
	t.Helper()
	want := make(map[string]bool)
	for _, login := range drained {
		want[login] = true
		if members[login] == nil {
			t.Errorf("%s: %s is not there", when, login)
		}
	}
	for login, m := range members {
		if got := m.Health.Status().Admin; (got == health.Drain) != want[login] {
			t.Errorf("%s: %s is %s", when, login, got)
		}
	}
}

// What an upstream is known by does not hang on others that come and go, nor on its password
// where no other one has its user.
func TestIdentity(t *testing.T) {
	g := newGroup(t, &Spec{})
	first := g.list(t, at(t, "one.example", "a:1"))["a:1"].ID()
	if two := g.list(t, at(t, "one.example", "b:1", "a:1")); two["a:1"].ID() != first || two["b:1"].ID() == first {
		t.Error("another user changes who an upstream is")
	}
	if again := g.list(t, at(t, "one.example", "a:2")); again["a:2"].ID() != first {
		t.Error("another password changes who an upstream is")
	}
	two := g.list(t, at(t, "one.example", "a:2", "a:3"))
	old, fresh := two["a:2"].ID(), two["a:3"].ID()
	if old != first || fresh == old {
		t.Errorf("of two passwords: %s, then %s and %s", first, old, fresh)
	}
	if one := g.list(t, at(t, "one.example", "a:3")); one["a:3"].ID() != fresh {
		t.Error("an upstream is another one when one of its user goes")
	}
	if two := g.list(t, at(t, "one.example", "a:3", "a:2")); two["a:3"].ID() != fresh || two["a:2"].ID() != old {
		t.Error("the order of lines changes who upstreams are")
	}
	if elsewhere := g.list(t, at(t, "two.example", "a:2"))["a:2"].ID(); elsewhere == old {
		t.Error("two addresses, one identity")
	}
}

// An order stays with the upstream that it was given to, over lists and restarts.
func TestOrdersStay(t *testing.T) {
	const host = "ordered.example"
	restart := func(logins ...string) map[string]*Member {
		t.Helper()
		g := newGroup(t, &Spec{})
		members := g.list(t, at(t, host, logins...))
		t.Cleanup(g.Close)
		return members
	}
	g := newGroup(t, &Spec{})
	members := g.list(t, at(t, host, "u:old", "u:new"))
	drain(t, members["u:old"])
	expectAdmin(t, "ordered", members, "u:old")
	expectAdmin(t, "its line has gone", g.list(t, at(t, host, "u:new")))
	expectAdmin(t, "lines swapped", g.list(t, at(t, host, "u:new", "u:old")), "u:old")
	expectAdmin(t, "other users", g.list(t, at(t, host, "v:x", "u:new", "u:old")), "u:old")
	g.Close()
	members = restart("u:new")
	expectAdmin(t, "its line has gone, restart", members)
	members["u:new"].Group.Close()
	members = restart("u:new", "u:old")
	expectAdmin(t, "lines swapped, restart", members, "u:old")
	members["u:new"].Group.Close()

	g = newGroup(t, &Spec{})
	members = g.list(t, at(t, host, "w:1"))
	drain(t, members["w:1"])
	expectAdmin(t, "another password", g.list(t, at(t, host, "w:2")), "w:2")
	g.Close()
	members = restart("w:3")
	expectAdmin(t, "another password, restart", members, "w:3")
	g = members["w:3"].Group
	expectAdmin(t, "one of the same user comes", g.list(t, at(t, host, "w:4", "w:3")), "w:3")
	g.Close()
	members = restart("w:4", "w:3")
	expectAdmin(t, "one of the same user, restart", members, "w:3")
	members["w:3"].Group.Close()
}

// Handlers that share the health of an upstream share what is ordered of it, whatever else is
// in their groups, and one that comes, or does not come to run, undoes nothing.
func TestOrdersAreShared(t *testing.T) {
	const host = "shared.example"
	one, two := newGroup(t, &Spec{}), newGroup(t, &Spec{})
	a, b := one.list(t, at(t, host, "u:1")), two.list(t, at(t, host, "u:1", "v:2"))
	if a["u:1"].Health != b["u:1"].Health || a["u:1"].ID() != b["u:1"].ID() {
		t.Fatal("one upstream, two identities")
	}
	drain(t, a["u:1"])
	for range 3 {
		g := newGroup(t, &Spec{})
		expectAdmin(t, "a third handler", g.list(t, at(t, host, "v:2", "u:1")), "u:1")
		expectAdmin(t, "beside a third handler", a, "u:1")
		g.Close()
		expectAdmin(t, "after a third handler", b, "u:1")
	}
}
