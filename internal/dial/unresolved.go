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

// CheckUnresolved applies the rules to a destination that an upstream will resolve: to its
// name, and to those of its addresses that are known without asking anybody. These are
// what localhost means, fixed addresses and those of the hosts file.
func (d *Dialer) CheckUnresolved(dest target.Target) error {
	if err := d.Access.Now().CheckUnresolved(dest); err != nil {
		return err
	}
	return d.checkFixed(dest)
}

// checkFixed applies the rules to what is known of a name without asking anybody.
func (d *Dialer) checkFixed(dest target.Target) error {
	if dest.IsAddr() {
		return nil
	}
	addrs, more := d.Names.cache.Fixed(dest.Host)
	if more {
		return errMoreAddrs
	}
	if isLocalhost(dest.Host) {
		addrs = append(addrs, loopback...)
	}
	rules := d.Access.Now()
	for _, a := range addrs {
		if err := rules.CheckAddr(dest, a); err != nil {
			return err
		}
	}
	return nil
}

// CheckNames resolves a name that an upstream will resolve, and refuses it if any of
// its addresses may not be reached: which of them the upstream takes, and of which
// family, is not ours to say.
func (d *Dialer) CheckNames(ctx context.Context, dest target.Target) error {
	_, err := d.CheckNamesWithin(ctx, dest, 0)
	return err
}

// CheckNamesWithin is CheckNames for who does not wait for all of the answers: late says that
// there was none in time, and nothing was checked but what costs no question. What comes
// later is known to the next. With 0, all are waited for.
func (d *Dialer) CheckNamesWithin(ctx context.Context, dest target.Target, wait time.Duration) (late bool, err error) {
	if dest.IsAddr() {
		return false, d.Access.Now().CheckAddr(dest, dest.Addr)
	}
	if err := d.checkFixed(dest); err != nil {
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
	case list.waits():
		return true, nil
	}
	return false, list.failure(ctx)
}
