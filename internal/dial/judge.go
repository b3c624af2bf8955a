package dial

import (
	"context"
	"net/netip"
	"slices"

	"github.com/caddy-egress/egress/internal/target"
)

// Judged is an address of a destination, and what would be done with it.
type Judged struct {
	Addr         netip.Addr
	Err          error // it may not be dialed
	Taken        bool  // it would be tried; false without an error: its family is not used
	FailedLately bool  // it could not be connected to, and is tried last
}

// Judge resolves dest and says of each of its addresses whether it may be dialed: those
// that are taken in front, in the order in which they are tried. The error is what a dial
// would fail with for want of one.
func (d *Dialer) Judge(ctx context.Context, dest target.Target, order FamilyOrder) ([]Judged, error) {
	return d.judge(ctx, dest, order, func(a netip.Addr) error { return d.Check(dest, a) })
}

func (d *Dialer) judge(parent context.Context, dest target.Target, order FamilyOrder, check func(netip.Addr) error) ([]Judged, error) {
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	var all, out []Judged
	list, err := d.collect(ctx, Hop{
		host: dest.Host,
		addr: dest.Addr,
		port: dest.Port,
		check: func(a netip.Addr) error {
			err := check(a)
			all = append(all, Judged{Addr: a, Err: err})
			return err
		},
	}, order)
	if err != nil {
		return nil, err
	}
	if list.len() == 0 {
		err = list.failure(ctx)
	}
	for a, ok := list.next(); ok; a, ok = list.next() {
		out = append(out, Judged{Addr: a, Taken: true, FailedLately: d.Names.failed.Has(netip.AddrPortFrom(a, dest.Port))})
	}
	for _, j := range all {
		if j.Err != nil || !slices.ContainsFunc(out, func(o Judged) bool { return o.Addr == j.Addr }) {
			out = append(out, j)
		}
	}
	return out, err
}

// JudgeTold is Judge for what upstreams are told. What could not be dialed from here says
// nothing about them: each knows by itself what it could not reach. An address at which this
// process listens is another machine's to those that run elsewhere, where the client has named
// it: what a name means here, it means here.
func (d *Dialer) JudgeTold(ctx context.Context, dest target.Target, order FamilyOrder, by Upstreams) ([]Judged, error) {
	told := *d
	told.Names = NewNames(d.Names.cache)
	if !dest.IsAddr() {
		return told.Judge(ctx, dest, order)
	}
	return told.judge(ctx, dest, order, func(a netip.Addr) error { return told.checkTold(ctx, dest, a, by) })
}

// Families leaves of the families those in which there is a local address, as a pick
// would.
func (s *Sources) Families(o FamilyOrder) FamilyOrder {
	if s == nil {
		return o
	}
	var any Source
	for f, list := range s.Addrs {
		if len(list) > 0 {
			any.Addrs[f] = list[0]
		}
	}
	return any.restrict(o)
}
