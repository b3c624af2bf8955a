package health

import "testing"

func TestSoftFails(t *testing.T) {
	var f softFails
	const sets = uint64(len(f))
	same := func(i uint64) uint64 { return 7 + i*sets } // all in one set
	has := func(i uint64) bool { return f.take(same(i)) }

	if f.take(same(0)) {
		t.Fatal("an empty table knows a destination")
	}
	for i := range uint64(4) {
		f.add(same(i))
		f.add(same(i)) // takes no second place
	}
	f.add(same(0)) // the newest again
	f.add(same(9)) // the oldest, 1, goes
	for i, want := range map[uint64]bool{0: true, 1: false, 2: true, 3: true, 9: true, 5: false} {
		if got := has(i); got != want {
			t.Errorf("%d: %v, want %v", i, got, want)
		}
	}
	if has(0) {
		t.Error("taken twice")
	}

	f.add(same(1))
	f.add(same(2))
	f.take(same(2))
	f.add(same(3)) // into the place of 2
	if !has(1) || !has(3) {
		t.Error("a free place pushes another entry out")
	}
}

// TestSoftFails_OfASuspicion: that many destinations fail at once is what the table is
// for: those of a suspicion are all still there, whatever the hash.
func TestSoftFails_OfASuspicion(t *testing.T) {
	for seed := range uint64(2000) {
		var f softFails
		x := seed * 0x9E3779B97F4A7C15
		ds := make([]uint64, 5)
		for i := range 500 { // older failures fill the table
			f.add(uint64(i)*0xD1342543DE82EF95 + seed)
		}
		for i := range ds {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			ds[i] = max(x, 1)
			f.add(ds[i])
		}
		lost := 0
		for _, d := range ds {
			if !f.take(d) {
				lost++
			}
		}
		if x != 0 && lost > 0 {
			t.Fatalf("seed %d: %d lost", seed, lost)
		}
	}
}
