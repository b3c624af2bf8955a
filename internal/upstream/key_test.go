package upstream

import (
	"slices"
	"testing"
)

// TestMemberKeys: what is sticky stays where it is when a password changes. Keys are
// distinct, whatever is at one address.
func TestMemberKeys(t *testing.T) {
	spec := func(url, user, password string) *Spec {
		addr, err := ParseURL(url, "")
		if err != nil {
			t.Fatal(err)
		}
		s := &Spec{Addr: addr}
		if user != "" {
			s.Login = &Login{User: user, Password: password}
		}
		return s
	}
	keys := func(specs ...*Spec) (all []uint64) {
		k := keysOf(specs)
		for _, s := range specs {
			all = append(all, k.take(s))
		}
		if distinct := slices.Compact(slices.Sorted(slices.Values(all))); len(distinct) != len(all) {
			t.Errorf("keys %x", all)
		}
		return all
	}
	one, two := "http://one.example:3128", "http://two.example:3128"
	same := func(what string, a, b []uint64) {
		if !slices.Equal(a, b) {
			t.Errorf("%s: %x, then %x", what, a, b)
		}
	}
	same("password", keys(spec(one, "u", "a"), spec(two, "u", "a")), keys(spec(one, "u", "b"), spec(two, "u", "b")))
	same("user", keys(spec(one, "u", "a"), spec(two, "", "")), keys(spec(one, "v", "a"), spec(two, "w", "c")))
	same("password of one of two users", keys(spec(one, "u", "a"), spec(one, "v", "b")), keys(spec(one, "u", "c"), spec(one, "v", "b")))
	same("passwords of one user", keys(spec(one, "u", "a"), spec(one, "u", "b")), keys(spec(one, "u", "c"), spec(one, "u", "d")))
	many := make([]*Spec, 50_000) // as with lists that have the session in the password
	for i := range many {
		many[i] = spec(one, "u", "a")
	}
	keys(many...)
	if u, v := keys(spec(one, "u", "a"), spec(one, "v", "b")), keys(spec(one, "v", "b"), spec(one, "u", "a")); u[0] != v[1] || u[1] != v[0] {
		t.Errorf("the order of two users changes their keys: %x, %x", u, v)
	}
}
