package upstream

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains what members are told of destinations: names, or addresses that were
// looked up here.

// Resolution is who resolves the names of destinations.
type Resolution uint32

// The ways in which the members of a group may be told of destinations.
const (
	ByNobody   Resolution = 0 // there are no members
	Here       Resolution = 1 // they are told addresses, which are looked up here
	ByUpstream Resolution = 2 // they are told names
	ByBoth                = Here | ByUpstream
)

// Resolution tells who resolves names for the members that there are now.
func (g *Group) Resolution() Resolution { return Resolution(g.resolution.Load()) }

// RunHere implements dial.Upstreams.
func (g *Group) RunHere(ctx context.Context) bool {
	return slices.ContainsFunc(g.Members(), func(m *Member) bool { return m.Conns.here(ctx) })
}

// TakesAddrs reports whether the member is told addresses instead of names.
func (m *Member) TakesAddrs() bool { return m.Spec.Addr.Scheme == SOCKS5 }

// Tell begins to tell a member that takes addresses of dest, as d has it: those last that
// could not be reached through it lately.
func (m *Member) Tell(d *dial.Dialer, dest target.Target) *dial.Told {
	return d.Tell(dest, &m.Conns.through)
}

// ToldLast is the address family of which the member is told last, since it does not reach it;
// empty for none.
func (m *Member) ToldLast() string {
	for _, f := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		if m.TakesAddrs() && m.Conns.through.ToldLast(f) {
			return f.String()
		}
	}
	return ""
}

// DialTunnel asks the upstream for a tunnel. One that takes addresses is told others where
// it does not reach the first, as long as ctx lasts (see telling). told has been asked for
// the address in to; it is nil where no others may be told.
func (m *Member) DialTunnel(ctx context.Context, to proxydial.Target, told *dial.Told, client proxydial.Client) (*proxydial.Tunnel, error) {
	switch {
	case told != nil:
		return m.tell(ctx, to, told, client)
	case !to.Addr.IsValid():
		return m.Conns.Dialer.DialTunnel(ctx, to, client)
	}
	began := time.Now()
	tunnel, err := m.Conns.Dialer.DialTunnel(ctx, to, client)
	if err != nil {
		return nil, m.oneFamily(ctx, dnscache.FamilyOf(to.Addr.Unmap()), began, err)
	}
	m.Conns.through.Reached(netip.AddrPortFrom(to.Addr, to.Port))
	return tunnel, nil
}

// familyError is the failure of addresses of one family, while the upstream reaches those
// of the other one. That is charged to nobody.
type familyError struct{ error }

func (e *familyError) Unwrap() error { return e.error }

// oneFamily is the error of an attempt that began at a moment, and in which the upstream was
// told addresses of one family.
func (m *Member) oneFamily(ctx context.Context, family dnscache.Family, began time.Time, err error) error {
	if !mayBeFamily(judgeTunnel(ctx, err)) || !m.Conns.through.OnlyOther(family, began) {
		return err
	}
	m.Conns.through.Missed(family)
	return &familyError{err}
}

// mayBeFamily reports whether a verdict is about what the upstream was told, and not about
// the upstream or the host.
func mayBeFamily(v Verdict) bool {
	return v.Kind == health.SoftFail || v.Kind == health.ReplyTimeout || v.Kind == health.Failure && v.Relayed
}

// isUnreached reports whether an attempt to open a tunnel has failed for the address that
// the upstream was told: it has said so, be it that it does not allow that address, or closed
// instead, or not answered in time.
func isUnreached(err error) bool {
	e, ok := errors.AsType[*proxydial.Error](err)
	if !ok || e.Stage != proxydial.StageReply {
		return false
	}
	if socks, ok := errors.AsType[*proxydial.SOCKSError](err); ok {
		return socks.Code != proxydial.SOCKSCommandNotSupported
	}
	return e.Timeout() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// decides reports whether the upstream has said what became of an address in words that
// leave no doubt about the upstream: it has reached the host, or may not.
func decides(err error) bool {
	socks, ok := errors.AsType[*proxydial.SOCKSError](err)
	return ok && socks.Code == proxydial.SOCKSRefused || isNotAllowed(err)
}

func isNotAllowed(err error) bool {
	socks, ok := errors.AsType[*proxydial.SOCKSError](err)
	return ok && socks.Code == proxydial.SOCKSNotAllowed
}
