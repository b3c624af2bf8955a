package origin

import "sync/atomic"

// Trust is a belief about a peer that connections are used again on the strength of. It holds
// until it ends, which is for good. The zero value holds.
type Trust struct{ ended atomic.Bool }

// Holds reports whether it has not ended.
func (t *Trust) Holds() bool { return !t.ended.Load() }

// End ends it, and reports whether it held until then.
func (t *Trust) End() bool { return !t.ended.Load() && t.ended.CompareAndSwap(false, true) }
