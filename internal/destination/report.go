package destination

import (
	"slices"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
)

// This file contains what is told of destinations that fail, for people and programs that
// look.

// Failing is what is known of a destination that has failed lately on one way.
type Failing struct {
	// Name is host:port, behind https:// where it is asked for over TLS, with the source
	// that it was asked for from where these are kept apart.
	Name     string
	Group    string // that the path leads through; empty directly
	Via      uint64 // the key of the member of the group; 0 directly
	Circuit  health.State
	Failures int       // in a row, within the window
	Until    time.Time // of an open circuit: when a request may try again
	Last     time.Time // when it has failed last
	Cause    *failure.Failure
	Err      string // behind the cause
}

// Report tells of the destinations that are kept track of: once for each member of a
// group that one has failed through. There are at most maxDestinations times maxWays.
func (d *Circuits) Report() (all []Failing) {
	now := time.Now()
	d.states.Range(func(key, v any) bool {
		s := v.(*state)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.ways {
			all = append(all, Failing{
				Name: key.(string), Via: w.via, Circuit: w.circuit.State(), Failures: w.circuit.Failing(now, d.cfg.Window),
				Until: w.circuit.Until(), Last: w.at, Cause: w.cause, Err: w.err,
			})
		}
		return true
	})
	return all
}

// Failing is Report for one path: those of names that are told without it, in their order.
func (d *Path) Failing() (all []Failing) {
	for _, f := range d.Report() {
		if name, ok := strings.CutPrefix(f.Name, d.prefix()); ok {
			f.Name, f.Group = name, d.via
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b Failing) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Reset forgets that a destination (host:port) has failed on the path, from whatever source
// and with TLS or without, and reports how often that was known.
func (d *Path) Reset(dest string) (n int) {
	d.states.Range(func(key, v any) bool {
		name, ok := strings.CutPrefix(key.(string), d.prefix())
		name, _, _ = strings.Cut(strings.TrimPrefix(name, "https://"), " from source ")
		if !ok || name != dest {
			return true
		}
		s := v.(*state)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.gone {
			n++
			d.forget(key.(string), s)
		}
		return true
	})
	return n
}
