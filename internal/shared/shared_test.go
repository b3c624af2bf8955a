package shared

import (
	"errors"
	"testing"
)

type thing struct{ ended int }

func (t *thing) Destruct() error { t.ended++; return nil }

// The last one who releases a value destructs it; the next one gets a new one.
func TestPool(t *testing.T) {
	p := NewPool[*thing]()
	build := func() (*thing, error) { return new(thing), nil }
	one, err := p.Use("a", build)
	if err != nil || one.Kept {
		t.Fatal(err, one.Kept)
	}
	two, err := p.Use("a", build)
	if err != nil || !two.Kept || two.Value != one.Value || p.Holders()["a"] != 2 || len(p.All()) != 1 {
		t.Fatal(err, two, p.Holders())
	}
	for i, u := range []*Use[*thing]{one, two} {
		if err := u.Release(); err != nil || u.Value.ended != i {
			t.Errorf("release %d: %v, destructed %d times", i, err, u.Value.ended)
		}
	}
	again, err := p.Use("a", build)
	if err != nil || again.Kept || again.Value == one.Value {
		t.Error("a value that was destructed is used again", err)
	}
	_ = again.Release()
	if len(p.Holders()) != 0 {
		t.Error(p.Holders())
	}
	if err := (*Use[*thing])(nil).Release(); err != nil {
		t.Error(err)
	}
}

// What cannot be built is not held.
func TestPool_Fails(t *testing.T) {
	p := NewPool[*thing]()
	want := errors.New("no")
	if _, err := p.Use("a", func() (*thing, error) { return nil, want }); !errors.Is(err, want) {
		t.Error(err)
	}
	if len(p.All()) != 0 {
		t.Error(p.Holders())
	}
}
