package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
)

// FamilyOrder is which address families are used, and which one comes first.
type FamilyOrder struct {
	First dnscache.Family
	only  bool // and no other
}

// Both is the order with no family left out.
func (o FamilyOrder) Both() FamilyOrder { return FamilyOrder{First: o.First} }

func (o FamilyOrder) allows(f dnscache.Family) bool { return !o.only || f == o.First }

// candidates are the addresses of a hop that may be dialed and have not been yet.
// No address gets in without having been checked: what comes out of next is what
// is dialed.
type candidates struct {
	order  FamilyOrder
	failed *FailedAddrs
	to     Hop
	turn   dnscache.Family // whose turn it is: families alternate (RFC 8305 §4)

	// Addresses that failed lately come after all others, or those of their family with
	// byFamily.
	good, bad [2][]netip.Addr
	byFamily  bool

	refused error // why the first address that was not let in was not
	unknown error // why there are no addresses
	more    bool  // there are others

	flights [2]*dnscache.Flight // the questions under way, nil where there are none
}

func newCandidates(order FamilyOrder, failed *FailedAddrs, to Hop) *candidates {
	return &candidates{order: order, failed: failed, to: to, turn: order.First}
}

// add takes the addresses of an answer in that may be dialed.
func (c *candidates) add(answer dnscache.Answer) {
	c.more = c.more || answer.More
	switch {
	case answer.Err == nil:
	case c.unknown == nil || saysMore(answer.Err, c.unknown):
		c.unknown = answer.Err
	case isNotFound(c.unknown) && c.unknown.Error() != answer.Err.Error():
		c.unknown = c.noAddresses() // neither of the one family nor of the other
	}
	for _, a := range answer.Addrs {
		a = a.Unmap()
		err := c.to.check(a)
		if err != nil && !c.to.addr.IsValid() {
			err = &addressError{a, err}
		}
		f := dnscache.FamilyOf(a)
		if err == nil && !c.order.allows(f) {
			err = fmt.Errorf("%w: %s is %s, and only %s is used", failure.Unroutable, a, f, c.order.First)
		}
		switch {
		case err != nil:
			if c.refused == nil {
				c.refused = err
			}
		case c.failed.Has(netip.AddrPortFrom(a, c.to.port)):
			c.bad[f] = append(c.bad[f], a)
		default:
			c.good[f] = append(c.good[f], a)
		}
	}
}

// addressError is an error about an address of a name. It names the address, for logs.
type addressError struct {
	addr netip.Addr
	err  error
}

func (e *addressError) Unwrap() error { return e.err }
func (e *addressError) Error() string { return e.addr.String() + ": " + e.err.Error() }

// saysMore reports whether err explains a failure better than other: that there was no
// descriptor to ask with for one family matters more than what was told of the other, and
// that the resolver failed matters more than that there is nothing.
func saysMore(err, other error) bool {
	if descriptors.Out(err) != descriptors.Out(other) {
		return descriptors.Out(err)
	}
	a, aOK := errors.AsType[*net.DNSError](err)
	b, bOK := errors.AsType[*net.DNSError](other)
	return aOK && bOK && b.IsNotFound && !a.IsNotFound
}

func isNotFound(err error) bool {
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && d.IsNotFound
}

// noAddresses is the error for a name that has none.
func (c *candidates) noAddresses() error {
	return &net.DNSError{UnwrapErr: c.unknown, Err: "no addresses", Name: c.to.host, IsNotFound: true}
}

// next returns the address to dial next.
func (c *candidates) next() (netip.Addr, bool) {
	first, other := c.turn, 1-c.turn
	tiers := [...]*[]netip.Addr{&c.good[first], &c.good[other], &c.bad[first], &c.bad[other]}
	if c.byFamily {
		tiers[1], tiers[2] = tiers[2], tiers[1]
	}
	for _, tier := range tiers {
		if list := *tier; len(list) > 0 {
			*tier = list[1:]
			c.turn = 1 - dnscache.FamilyOf(list[0])
			return list[0], true
		}
	}
	return netip.Addr{}, false
}

func (c *candidates) len() int {
	return len(c.good[0]) + len(c.good[1]) + len(c.bad[0]) + len(c.bad[1])
}

// failure is why there was nothing to dial.
func (c *candidates) failure(ctx context.Context) error {
	switch {
	case c.len() > 0:
		return ctx.Err() // there was no time for them
	case c.refused != nil:
		return c.refused
	case ctx.Err() != nil && c.noTurn():
		return &net.DNSError{UnwrapErr: dnscache.ErrNoTurn, Err: dnscache.ErrNoTurn.Error(), Name: c.to.host, IsTemporary: true}
	case ctx.Err() != nil:
		return &net.DNSError{UnwrapErr: c.late(ctx.Err()), Err: "no answer in time", Name: c.to.host, IsTimeout: true}
	case c.unknown != nil:
		return c.unknown
	}
	return c.noAddresses()
}

// late is the end of the time with the question that took it.
func (c *candidates) late(err error) error {
	for _, fl := range c.flights {
		if fl != nil && !fl.Over() {
			return fl.Question().Because(err)
		}
	}
	return err
}

// waits reports whether there are questions without an answer.
func (c *candidates) waits() bool {
	return slices.ContainsFunc(c.flights[:], func(fl *dnscache.Flight) bool { return fl != nil && !fl.Over() })
}

// noTurn reports whether a question was never put.
func (c *candidates) noTurn() bool {
	for _, fl := range c.flights {
		if fl != nil && !fl.Asked() {
			return true
		}
	}
	return false
}
