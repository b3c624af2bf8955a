package upstream

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// This file contains how an upstream that takes addresses is told those of a destination,
// until it reaches one.

const (
	// maxTold is how many addresses of a destination an upstream is told for one tunnel.
	maxTold = 3

	// toldBeside is how long an upstream may be silent about an address before it is told
	// another one beside it.
	toldBeside = time.Second

	// toldLate is how long another address is looked up where the upstream has said no to
	// all that were told.
	toldLate = 250 * time.Millisecond
)

// telling is a tunnel that an upstream is asked for, by the addresses of the destination: the
// families in turn, another one when one has failed, or beside it when the upstream was silent
// about it for a while, as for direct dials (RFC 8305 §5). What stands first is taken. That an
// upstream does not reach some of them says nothing about it.
type telling struct {
	m      *Member
	told   *dial.Told
	to     proxydial.Target
	client proxydial.Client
	began  time.Time

	list    []toldAddr    // in the order in which they were told
	asked   chan int      // whose answer is waited for, by its place in list
	answers chan answered // of those
	running int
	failed  error // the first one, unless a later one says more
	over    bool  // no more are told

	looking bool // for the next
	since   time.Time
	found   chan nextAddr
	late    *time.Timer // for the next to be found
	silent  *time.Timer // for the last that was told to be answered
}

// toldAddr is an address that the upstream was told.
type toldAddr struct {
	addr   netip.Addr
	over   bool // the attempt has ended
	missed bool // in a way that may be due to the address family
}

type answered struct {
	n      int
	tunnel *proxydial.Tunnel
	err    error
}

type nextAddr struct {
	addr netip.Addr
	err  error
}

// tell asks for the tunnel. Where the upstream reaches no address, the error is the first,
// unless a later one says more.
func (m *Member) tell(parent context.Context, to proxydial.Target, told *dial.Told, client proxydial.Client) (*proxydial.Tunnel, error) {
	ctx, cancel := context.WithCancel(parent)
	r := &telling{
		m: m, told: told, to: to, client: client, began: time.Now(),
		asked: make(chan int, maxTold), answers: make(chan answered, maxTold), found: make(chan nextAddr, 1),
		late: time.NewTimer(0), silent: time.NewTimer(0),
	}
	r.late.Stop()
	r.silent.Stop()
	defer r.end(cancel)
	r.ask(ctx, to.Addr)
	for r.running > 0 || r.looking && !r.over {
		select {
		case n := <-r.asked:
			r.isAsked(ctx, n)
		case <-r.silent.C:
			r.look(ctx)
		case f := <-r.found:
			r.looking = false
			r.late.Stop()
			if r.over = r.over || f.err != nil; !r.over {
				r.ask(ctx, f.addr)
			}
		case <-r.late.C:
			return nil, r.failure(ctx)
		case a := <-r.answers:
			r.running--
			if a.err == nil {
				r.reached(a.n)
				return a.tunnel, nil
			}
			r.hasFailed(a)
			r.look(ctx)
			r.hurry()
		}
	}
	return nil, r.failure(ctx)
}

// ask tells the upstream an address.
func (r *telling) ask(ctx context.Context, a netip.Addr) {
	n, to := len(r.list), r.to
	r.list = append(r.list, toldAddr{addr: a})
	r.running++
	r.silent.Stop() // it was for the one before
	to.Addr, to.Asked = a, func() { r.asked <- n }
	go func() {
		tunnel, err := r.m.Conns.Dialer.DialTunnel(ctx, to, r.client)
		r.answers <- answered{n, tunnel, err}
	}()
}

// isAsked notes that the answer about an address is waited for: as long as toldBeside, or as
// its share of the time that is left.
func (r *telling) isAsked(ctx context.Context, n int) {
	if n != len(r.list)-1 {
		return
	}
	share := toldBeside
	if end, ok := ctx.Deadline(); ok {
		share = min(share, time.Until(end)/time.Duration(maxTold-n))
	}
	r.silent.Reset(share)
}

// look looks for another address to tell, if one may be told.
func (r *telling) look(ctx context.Context) {
	if r.over || r.looking || len(r.list) == maxTold || ctx.Err() != nil {
		return
	}
	r.looking, r.since = true, time.Now()
	go func() {
		a, err := r.told.Next(ctx)
		r.found <- nextAddr{a, err}
	}()
}

// hurry bounds the search for another address where nothing else is waited for.
func (r *telling) hurry() {
	if r.running == 0 && r.looking {
		r.late.Reset(max(toldLate-time.Since(r.since), 0))
	}
}

// hasFailed notes the failure of an attempt. None follows where it was not for the address.
func (r *telling) hasFailed(a answered) {
	of := &r.list[a.n]
	of.over = true
	if r.failed == nil || saysMore(a.err, r.failed) {
		r.failed = a.err
	}
	if !isUnreached(a.err) {
		r.over = true
		return
	}
	of.missed = isNotAllowed(a.err) || mayBeFamily(judgeTunnel(context.Background(), a.err))
	r.mark(of)
}

// mark has an address told last for a while that could not be reached, or was not in time.
func (r *telling) mark(a *toldAddr) {
	r.m.Conns.through.Failed(netip.AddrPortFrom(a.addr, r.to.Port))
}

// reached notes which address was reached, and which were not.
func (r *telling) reached(n int) {
	won := r.list[n].addr
	r.told.Reached(won)
	var missed [2]bool
	for i := range r.list {
		a := &r.list[i]
		if slow := i < n && !a.over; slow { // it had its time
			r.mark(a)
			a.missed = true
		}
		missed[dnscache.FamilyOf(a.addr)] = missed[dnscache.FamilyOf(a.addr)] || a.missed
	}
	if other := 1 - dnscache.FamilyOf(won); missed[other] {
		r.m.Conns.through.Missed(other)
	}
}

// failure is why no address was reached.
func (r *telling) failure(ctx context.Context) error {
	family := dnscache.FamilyOf(r.list[0].addr)
	for i := range r.list {
		if dnscache.FamilyOf(r.list[i].addr) != family {
			return r.failed
		}
	}
	return r.m.oneFamily(ctx, family, r.began, r.failed)
}

// end lets go of what is under way. Nothing of told is used any more when it returns.
func (r *telling) end(cancel context.CancelFunc) {
	cancel()
	r.late.Stop()
	r.silent.Stop()
	if r.looking {
		<-r.found
	}
	go func() {
		for range r.running {
			if a := <-r.answers; a.err == nil {
				_ = a.tunnel.Conn.Close()
			}
		}
	}()
}

// saysMore reports whether an error says more than another one of the same destination: what
// the upstream has answered more than that it has not, and that more than what became of a
// further connection to it.
func saysMore(err, other error) bool { return word(err) > word(other) }

func word(err error) int {
	e, ok := errors.AsType[*proxydial.Error](err)
	switch {
	case decides(err):
		return 3
	case !ok || e.Stage != proxydial.StageReply:
		return 0
	}
	if _, said := errors.AsType[*proxydial.SOCKSError](err); said {
		return 2
	}
	return 1
}
