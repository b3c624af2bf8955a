package admin

import "testing"

// at is a handler at a place.
type at struct {
	Entry // nobody is asked
	place string
}

func (a *at) Place() string { return a.place }

// Handlers are found by their place; an older one at the same place is the one that
// serves, until it leaves.
func TestRegistry(t *testing.T) {
	at := func(place string) Entry { return &at{place: place} }
	var r Registry
	check := func(place string, want Entry, problem string) {
		t.Helper()
		h, err := r.Find(place)
		switch {
		case problem == "" && (err != nil || h != want):
			t.Errorf("find(%q): %v, %v", place, h, err)
		case problem != "" && (err == nil || err.Error() != problem):
			t.Errorf("find(%q): %v, want %q", place, err, problem)
		}
	}
	check("", nil, "there is no egress handler in the configuration")
	one, next := at(":8080#1"), at(":8080#1")
	leaveOne := r.Add(one)
	check("", one, "")
	leaveNext := r.Add(next)
	check("", one, "")
	leaveOne()
	check("", next, "")
	other, far := at(":8080#2"), at(":9090#1")
	r.Add(other)
	leaveFar := r.Add(far)
	check("", nil, "say which egress handler is meant: :8080#1, :8080#2, :9090#1")
	check(":8080", nil, "say which egress handler is meant: :8080#1, :8080#2")
	check(":8080#2", other, "")
	check(":9090", far, "")
	check(":7070", nil, "there is no egress handler ':7070'; there are: :8080#1, :8080#2, :9090#1")
	leaveNext()
	leaveFar()
	check("", other, "")
}
