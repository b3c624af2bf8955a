package dial

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains how destinations are checked that an upstream resolves.

// loopback is what localhost means, and every name below it, whoever is asked (RFC 6761
// §6.3).
var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// Upstreams are who is told of a destination.
type Upstreams interface {
	// RunHere reports whether any of them runs on this machine: what a destination means
	// there, it means here.
	RunHere(context.Context) bool
}

// CheckUnresolved applies the rules to a destination that upstreams will resolve: to its
// name, and to those of its addresses that are known without asking anybody. These are
// what localhost means, fixed addresses and those of the hosts file. One at which this
// process listens is refused where any of the upstreams runs here, as Check refuses it. by is
// nil where that does not matter.
func (d *Dialer) CheckUnresolved(ctx context.Context, dest target.Target, by Upstreams) error {
	if err := d.Access.Now().CheckUnresolved(dest); err != nil {
		return err
	}
	return d.checkFixed(ctx, dest, by)
}

// checkTold is Check for an address that upstreams will dial.
func (d *Dialer) checkTold(ctx context.Context, dest target.Target, a netip.Addr, by Upstreams) error {
	rules := d.Access.Now()
	if err := rules.CheckAddr(dest, a); err != nil || by == nil || rules.OpensSelf(a, dest.Port) {
		return err
	}
	if err := d.checkLoop(a, dest.Port); err != nil && by.RunHere(ctx) {
		return err
	}
	return nil
}

// IsHere reports whether what is dialed under a name or an address runs on this machine.
// Where that cannot be found out, it is taken for such.
func (d *Dialer) IsHere(parent context.Context, host string) bool {
	host, addr, err := target.ParseHost(host)
	if err != nil || isLocalhost(host) {
		return true
	}
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	here := false
	list, err := d.collect(ctx, Hop{host: host, addr: addr, check: func(a netip.Addr) error {
		here = here || d.Self.RunsHere(a)
		return nil
	}}, d.Order.Both())
	return err != nil || here || list.more || list.len() == 0
}

// checkFixed applies the rules to what is known of a destination without asking anybody.
func (d *Dialer) checkFixed(ctx context.Context, dest target.Target, by Upstreams) error {
	if dest.IsAddr() {
		return d.checkTold(ctx, dest, dest.Addr, by)
	}
	addrs, more := d.Names.cache.Fixed(dest.Host)
	if more {
		return errMoreAddrs
	}
	if isLocalhost(dest.Host) {
		addrs = append(addrs, loopback...)
	}
	for _, a := range addrs {
		if err := d.checkTold(ctx, dest, a, by); err != nil {
			return err
		}
	}
	return nil
}

// CheckNames resolves a name that upstreams will resolve, and refuses it if any of
// its addresses may not be reached: which of them the upstream takes, and of which
// family, is not ours to say.
func (d *Dialer) CheckNames(ctx context.Context, dest target.Target, by Upstreams) error {
	_, err := d.CheckNamesWithin(ctx, dest, by, 0)
	return err
}

// CheckNamesWithin is CheckNames for who does not wait for all of the answers: late says that
// there was none in time, and nothing was checked but what costs no question. What comes
// later is known to the next. With 0, all are waited for.
func (d *Dialer) CheckNamesWithin(ctx context.Context, dest target.Target, by Upstreams, wait time.Duration) (late bool, err error) {
	if err := d.checkFixed(ctx, dest, by); err != nil || dest.IsAddr() {
		return false, err
	}
	late, err = d.checkNames(ctx, dest, wait)
	if err != nil && descriptors.MakeRoom(err) {
		return d.checkNames(ctx, dest, wait)
	}
	return late, err
}

// errMoreAddrs is why a name is refused of which some addresses cannot be checked.
var errMoreAddrs = failure.DeniedAddress.Because(fmt.Errorf("it has more than %d addresses of one family, and not all can be checked", dnscache.MaxAddrs))

func (d *Dialer) checkNames(parent context.Context, dest target.Target, wait time.Duration) (late bool, err error) {
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	var over <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	list, err := d.collectWithin(ctx, d.hopTo(dest), d.Order.Both(), over)
	switch {
	case err != nil:
		return false, err
	case list.refused != nil:
		return false, list.refused
	case list.more:
		return false, errMoreAddrs
	case list.len() > 0:
		return false, nil
	case wait > 0 && list.waits():
		return true, nil
	}
	return false, list.failure(ctx)
}
