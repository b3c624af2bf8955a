package dial

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
)

// This file contains what is known of the addresses that an upstream reaches.

const (
	// missedFor is how long an address family that an upstream does not reach is told last.
	missedFor = time.Minute

	// missedTrial is how long one request has to find out that it is reached again, before
	// the next one may.
	missedTrial = 10 * time.Second

	// knownFor is how long it is remembered that a family was reached: so long, one address
	// of it says nothing about the others.
	knownFor = 10 * time.Minute

	// missesOfKnown is how many addresses in a row then do.
	missesOfKnown = 3
)

// Through is what is known of what an upstream reaches: which addresses it could not reach
// lately, and which address families. The zero value is ready to use. It is safe for
// concurrent use.
type Through struct {
	failed   FailedAddrs
	families [2]familyThrough
}

// familyThrough is what is known of a family. The times are unix nanoseconds.
type familyThrough struct {
	reached atomic.Int64 // when an address was reached last; 0 for never
	misses  atomic.Int32 // since then, while the other family was reached
	last    atomic.Int64 // until when it is told last; 0 where it is not
}

// Reached notes that an address was reached.
func (t *Through) Reached(a netip.AddrPort) {
	t.failed.Clear(a)
	f := &t.families[dnscache.FamilyOf(a.Addr().Unmap())]
	f.reached.Store(time.Now().UnixNano())
	if f.misses.Load() != 0 {
		f.misses.Store(0)
	}
	if f.last.Load() != 0 {
		f.last.Store(0)
	}
}

// Failed notes that an address could not be reached: it is told last for a while.
func (t *Through) Failed(a netip.AddrPort) { t.failed.Mark(a) }

// Missed notes that an address of a family could not be reached while one of the other
// family was. Where that is the rule, the family is told last for a while.
func (t *Through) Missed(family dnscache.Family) {
	f, now := &t.families[family], time.Now()
	misses, reached := f.misses.Add(1), f.reached.Load()
	if known := reached != 0 && now.Sub(time.Unix(0, reached)) < knownFor; !known || misses >= missesOfKnown || f.last.Load() != 0 {
		f.last.Store(now.Add(missedFor).UnixNano())
	}
}

// OnlyOther reports whether the upstream reaches addresses of the other family only: since
// a moment one was reached, or that was so lately.
func (t *Through) OnlyOther(family dnscache.Family, since time.Time) bool {
	other := t.families[1-family].reached.Load()
	if other == 0 {
		return false
	}
	now := time.Now()
	return other >= since.UnixNano() || t.ToldLast(family) && now.Sub(time.Unix(0, other)) < missedFor
}

// ToldLast reports whether the addresses of a family are told last.
func (t *Through) ToldLast(family dnscache.Family) bool {
	return time.Now().UnixNano() < t.families[family].last.Load()
}

// order is the order in which families are told. Once it is due, one request finds out
// whether a family is reached again: the trial is its, and is given back where it has no
// address of that family. turned says that the family that would come first is told last.
func (t *Through) order(o FamilyOrder) (_ FamilyOrder, turned bool, turn trial) {
	f := &t.families[o.First]
	last := f.last.Load()
	if last == 0 || o.only {
		return o, false, turn
	}
	if now := time.Now(); now.UnixNano() >= last {
		turn.of, turn.from, turn.until = f, last, now.Add(missedTrial).UnixNano()
		if f.last.CompareAndSwap(last, turn.until) {
			return o, false, turn
		}
	}
	o.First = 1 - o.First
	return o, true, trial{}
}

// trial is the turn to find out whether a family is reached again; none with the zero value.
type trial struct {
	of          *familyThrough
	from, until int64 // as familyThrough.last
}

// giveBack lets the next request have the turn.
func (t trial) giveBack() {
	if t.of != nil {
		t.of.last.CompareAndSwap(t.until, t.from)
	}
}
