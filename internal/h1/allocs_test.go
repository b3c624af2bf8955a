//go:build !race

package h1

import "testing"

// TestAllocs: an exchange allocates one string, of which all names and values of
// its head are parts; bodies nothing, in whatever framing. (The race detector
// drops pooled buffers at random.)
func TestAllocs(t *testing.T) {
	for _, tc := range benchResponses {
		r := new(replay)
		c, h, p := NewConn(r), &Head{Fields: make([]Field, 0, 24)}, make([]byte, 32<<10)
		if got := testing.AllocsPerRun(1000, func() { exchange(t, c, r, h, tc.text, p) }); got > 1 {
			t.Errorf("%s: %v allocations, want 1", tc.name, got)
		}
	}
}
