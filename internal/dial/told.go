package dial

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains what an upstream is told of a destination that it does not resolve
// itself: its addresses, one after the other, each of which may be reached.

// Told is a destination, and which of its addresses an upstream was told. It is for one
// tunnel, and for one goroutine at a time.
type Told struct {
	dialer  *Dialer
	to      Hop
	through *Through
	tried   []netip.Addr
	reached netip.Addr // through the upstream; not valid where none was
}

// Tell begins to tell an upstream of dest. through is what it is known to reach.
func (d *Dialer) Tell(dest target.Target, through *Through) *Told {
	return &Told{dialer: d, to: d.hopTo(dest), through: through}
}

// TellUnchecked is Tell for a destination that the operator has written: no rule is about
// it.
func (d *Dialer) TellUnchecked(dest target.Target, through *Through) *Told {
	anywhere := func(netip.Addr) error { return nil }
	return &Told{dialer: d, to: Hop{host: dest.Host, addr: dest.Addr, port: dest.Port, check: anywhere}, through: through}
}

// Addr is the address that was reached, or else that was told last; not valid where none
// was.
func (t *Told) Addr() netip.Addr {
	if t.reached.IsValid() {
		return t.reached
	}
	return t.last()
}

func (t *Told) last() netip.Addr {
	if len(t.tried) == 0 {
		return netip.Addr{}
	}
	return t.tried[len(t.tried)-1]
}

// Count is how many addresses were told.
func (t *Told) Count() int { return len(t.tried) }

// Reached notes that an address was reached through the upstream.
func (t *Told) Reached(a netip.Addr) {
	t.reached = a
	t.through.Reached(netip.AddrPortFrom(a, t.to.port))
}

// errWasTold keeps an address from being told twice.
var errWasTold = errors.New("the upstream was told this address")

// Next is the address to tell next: the first that is known and may be reached, of the family
// that the upstream reaches, if it is known to reach only one, be it one that it could not
// reach lately. Addresses of the other family
// are not waited for, but are next where there are any. Idle connections are closed where there
// was no descriptor to ask with, as for a dial.
func (t *Told) Next(ctx context.Context) (netip.Addr, error) {
	a, err := t.next(ctx)
	if err != nil && descriptors.MakeRoom(err) {
		a, err = t.next(ctx)
	}
	if err == nil {
		t.tried = append(t.tried, a)
	}
	return a, err
}

func (t *Told) next(parent context.Context) (a netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(parent, t.dialer.Timeout)
	defer cancel()
	to, order, byFamily := t.to, t.dialer.Order, t.toldOneFamily()
	if len(t.tried) == 0 {
		var turn trial
		order, byFamily, turn = t.through.order(order)
		defer func() {
			if err != nil || dnscache.FamilyOf(a) != order.First {
				turn.giveBack()
			}
		}()
	}
	to.check = func(a netip.Addr) error {
		if slices.Contains(t.tried, a) {
			return errWasTold
		}
		return t.to.check(a)
	}
	if last := t.last(); last.IsValid() && !order.only {
		order.First = 1 - dnscache.FamilyOf(last)
	}
	list := newCandidates(order, &t.through.failed, to)
	list.byFamily = byFamily
	for arrivals := t.dialer.Names.resolve(ctx, to.host, order, list, t.dialer.Recorder); ; {
		if a, ok := list.next(); ok {
			return a, nil
		}
		if arrivals == nil {
			return netip.Addr{}, list.failure(ctx)
		}
		select {
		case answer, ok := <-arrivals:
			if !ok {
				arrivals = nil
			}
			list.add(answer)
		case <-ctx.Done():
			return netip.Addr{}, list.failure(ctx)
		}
	}
}

// toldOneFamily reports whether several addresses were told, all of one family. The next is of
// the other one then, also one that could not be reached lately: an upstream is told few.
func (t *Told) toldOneFamily() bool {
	return len(t.tried) > 1 && !slices.ContainsFunc(t.tried, func(a netip.Addr) bool {
		return dnscache.FamilyOf(a) != dnscache.FamilyOf(t.tried[0])
	})
}
