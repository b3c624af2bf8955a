package events

import (
	"testing"
)

// A reader goes on where it was, is told what it has missed, and begins anew with a number
// of another process.
func TestRing(t *testing.T) {
	r := NewRing()
	list, missed, next := r.After(0)
	if len(list) != 0 || missed != 0 {
		t.Fatal(list, missed)
	}
	data := map[string]any{"upstream": "one"}
	r.Add("healthy", data)
	<-next
	data["upstream"] = "changed"
	list, _, _ = r.After(0)
	if len(list) != 1 || list[0].Number != 1 || list[0].Name != "healthy" || list[0].Data["upstream"] != "one" {
		t.Fatal(list)
	}
	for range maxKept + 9 {
		r.Add("more", nil)
	}
	list, missed, _ = r.After(1)
	if len(list) != maxKept || missed != 9 || list[0].Number != 11 || list[len(list)-1].Number != r.Last() {
		t.Error(len(list), missed, list[0].Number)
	}
	if list, missed, _ = r.After(r.Last() - 2); len(list) != 2 || missed != 0 {
		t.Error(len(list), missed)
	}
	if list, _, _ = r.After(r.Last() + 1); len(list) != maxKept {
		t.Error("of a number that it does not have", len(list))
	}
	for _, c := range []struct {
		id     string
		number uint64
		ok     bool
	}{{r.ID(7), 7, true}, {"other-7", 0, true}, {"7", 0, false}, {"", 0, false}, {r.epoch + "-x", 0, false}, {r.epoch + "--1", 0, false}} {
		if n, ok := r.Number(c.id); n != c.number || ok != c.ok {
			t.Errorf("%q: %d, %v", c.id, n, ok)
		}
	}
}

// deaf subscribes to nothing.
type deaf struct{}

func (deaf) Wanted(string) bool          { return false }
func (deaf) Emit(string, map[string]any) {}

// Events are remembered whether or not anybody has subscribed, and those of a configuration
// that does not run are not.
func TestQueue_Recent(t *testing.T) {
	before := Recent.Last()
	q := To(deaf{})
	q.Add("early", nil)
	if Recent.Last() != before {
		t.Error("an event of a configuration that does not run")
	}
	q.Start()
	q.Add("late", nil)
	list, _, _ := Recent.After(before)
	if len(list) != 2 || list[0].Name != "early" || list[1].Name != "late" {
		t.Error(list)
	}
}
