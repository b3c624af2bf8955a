package destination

// Open is how many destinations are not asked for as usual: a circuit of theirs is open, or
// lets through a probe only.
func (d *Circuits) Open() (n int) {
	d.states.Range(func(_, v any) bool {
		s := v.(*state)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open() {
			n++
		}
		return true
	})
	return n
}
