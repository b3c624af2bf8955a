package upstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"

	"github.com/caddy-egress/egress/internal/dial"
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

// maxTold is how many addresses of a destination an upstream is told for one tunnel.
const maxTold = 3

// Tell begins to tell a member that takes addresses of dest, as d has it: those last that
// could not be reached through it lately.
func (m *Member) Tell(d *dial.Dialer, dest target.Target) *dial.Told {
	return d.Tell(dest, &m.Conns.unreached)
}

// DialTunnel asks the upstream for a tunnel. One that takes addresses is told another one
// where it cannot reach the first, as long as ctx lasts: of the other address family, if
// there is one. That it cannot reach all of them says nothing about the upstream. told has
// been asked for the address in to; it is nil where no others may be told.
//
// Where it reaches none, the error is the first, unless a later one says more.
func (m *Member) DialTunnel(ctx context.Context, to proxydial.Target, told *dial.Told, client proxydial.Client) (*proxydial.Tunnel, error) {
	var failed error
	for {
		tunnel, err := m.Conns.Dialer.DialTunnel(ctx, to, client)
		if told == nil {
			return tunnel, err
		}
		if err == nil {
			told.Reached(true)
			return tunnel, nil
		}
		if failed == nil || decides(err) {
			failed = err
		}
		if !isUnreached(err) {
			return nil, failed
		}
		told.Reached(false)
		if told.Count() == maxTold || ctx.Err() != nil {
			return nil, failed
		}
		if to.Addr, err = told.Next(ctx); err != nil {
			return nil, failed
		}
	}
}

// isUnreached reports whether an attempt to open a tunnel has failed for the address that
// the upstream was told: it has said so, or closed instead, or not answered in time.
func isUnreached(err error) bool {
	e, ok := errors.AsType[*proxydial.Error](err)
	if !ok || e.Stage != proxydial.StageReply {
		return false
	}
	if socks, ok := errors.AsType[*proxydial.SOCKSError](err); ok {
		return socks.Code != proxydial.SOCKSNotAllowed && socks.Code != proxydial.SOCKSCommandNotSupported
	}
	return e.Timeout() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// decides reports whether the upstream has said what became of an address in words that
// leave no doubt about the upstream: it has reached the host, or may not.
func decides(err error) bool {
	socks, ok := errors.AsType[*proxydial.SOCKSError](err)
	return ok && (socks.Code == proxydial.SOCKSRefused || socks.Code == proxydial.SOCKSNotAllowed)
}
