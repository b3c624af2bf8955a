package core

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains how exchanges go through an upstream proxy: those for http
// through an HTTP proxy in absolute form over connections to the proxy, all others
// over tunnels, which are pooled like direct connections.

// viaRequest is an exchange through an upstream as the pool sees it. Its dial may
// still run when the exchange is over.
type viaRequest struct {
	p      *Proxy
	member *upstream.Member
	tunnel *viaTunnel        // nil in absolute form
	client *proxydial.Client // nil where the upstream is not told of it
	within time.Duration     // how long a connection may have waited, as connpool.Request has it
	slot   uint32            // of local addresses that are kept apart by user
	queued time.Duration     // how long it has waited for a slot
}

// Queued is told by the pool.
func (v *viaRequest) Queued(d time.Duration) { v.queued += d }

// viaTunnel is what an exchange that is not in absolute form needs besides.
type viaTunnel struct {
	dest    target.Target
	https   bool
	via     []string     // of the request, for the CONNECT
	version int          // the request was received in; see VersionIndex
	lookup  atomic.Int64 // how long it took to find out what the upstream is told
}

// Dial implements connpool.Requester.
func (v *viaRequest) Dial(ctx context.Context) (c *origin.Conn, err error) {
	defer func() { v.p.dialed(v.member.Group.Name, c, err) }()
	to, err := v.target(ctx)
	if err != nil {
		return nil, err
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, v.member.Group.Balancing().AttemptTimeout)
	defer cancel()
	ctx = dial.WithSlot(ctx, v.slot)
	conn, since, err := v.connect(parent, ctx, to)
	if err != nil {
		return nil, err
	}
	if v.tunnel != nil && v.tunnel.https {
		if conn, err = v.p.Direct.Handshake(dial.WithVia(ctx, v.member.Key()), conn, v.tunnel.dest.Host); err != nil {
			return nil, err
		}
	}
	c = &origin.Conn{Conn: v.p.h1Conn(conn), Addr: dial.RemoteAddr(conn), Since: since}
	if to.told != nil {
		c.Told = to.told.Addr()
	}
	return c, nil
}

// target is what the upstream is told of the destination. How long it takes to find that
// out is no matter of the upstream's.
func (v *viaRequest) target(ctx context.Context) (towards, error) {
	t := v.tunnel
	if t == nil {
		return towards{}, nil
	}
	start := time.Now()
	defer func() { t.lookup.Store(int64(time.Since(start))) }()
	to, err := v.p.tunnelTarget(ctx, v.member, t.dest)
	to.Header = v.p.ViaFields(t.via, t.version)
	return to, err
}

// connect returns the connection to the upstream, and since when it has waited if it has,
// or the connection through it. ctx has the limit of the attempt, parent has not.
func (v *viaRequest) connect(parent, ctx context.Context, to towards) (net.Conn, time.Time, error) {
	var client proxydial.Client
	if v.client != nil {
		client = *v.client
	}
	if v.tunnel == nil {
		ctx, span := startConnect(ctx, v.member)
		conn, since, err := v.member.Conns.Dialer.DialProxy(ctx, client, v.within)
		endConnect(parent, span, v.member, conn, err)
		return conn, since, err
	}
	tunnel, err := dialTunnel(parent, ctx, v.member, to, client)
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(tunnel.Early) > 0 {
		return h1.WithEarly(tunnel.Conn, tunnel.Early), time.Time{}, nil
	}
	return tunnel.Conn, time.Time{}, nil
}

// Accept implements connpool.Requester. The address of the connection is the
// upstream's, which no access rule is about, but it must be known to carry further
// exchanges, and an address of the destination that
// was looked up for a request with other rules is checked again.
func (v *viaRequest) Accept(c *origin.Conn) bool {
	if v.tunnel == nil {
		return v.member.TakesAgain(c)
	}
	return !c.Told.IsValid() || v.p.Direct.Check(v.tunnel.dest, c.Told) == nil
}

// towards is what a member is told of a destination.
type towards struct {
	proxydial.Target
	told *dial.Told // its addresses, where the member takes those; nil otherwise
}

// tunnelTarget is what a member is told of a destination: a socks5 upstream an
// address, which is looked up and checked here; the others what the client has said. The
// lookup has the time of a dial, and is over before the attempt begins: a slow DNS server
// is no fault of the upstream.
func (p *Proxy) tunnelTarget(ctx context.Context, m *upstream.Member, dest target.Target) (to towards, err error) {
	to.Target = proxydial.Target{Host: dest.Host, Port: dest.Port, Addr: dest.Addr}
	if m.TakesAddrs() && !dest.IsAddr() {
		to.told = m.Tell(p.Direct.Dialer, dest)
		to.Addr, err = to.told.Next(ctx)
	}
	return to, err
}

// Absolute reports whether the exchange goes through the current upstream in absolute form.
// One that asks for an upgrade goes over a tunnel, as browsers have it: a 101 in absolute form
// would make a tunnel of a connection on which the upstream may go on to read requests, which
// no rule would see.
func (t *Request) Absolute() bool {
	return t.Use != upstream.Upgrade && t.Ways.Current.Absolute(t.HTTPS)
}

// acquireVia gets a connection for an exchange through the current upstream.
func (t *Request) acquireVia(fresh bool) (*origin.Lease, error) {
	m := t.Ways.Current.Member
	v := &viaRequest{p: t.Proxy, member: m, within: t.maxIdle(fresh), slot: t.SlotOf(m.Conns.From)}
	var key origin.Key
	if !t.Absolute() {
		key = origin.Key{TLS: t.HTTPS, Host: t.Target.Host, Port: t.Target.Port}
		v.tunnel = &viaTunnel{dest: t.Target, https: t.HTTPS, via: slices.Clone(t.HTTP.Header["Via"]), version: VersionIndex(t.HTTP)}
	}
	key.Slot = v.slot
	if m.Spec.ProxyProtocol != "" {
		client := t.clientAddrs()
		v.client = &client
		key.Host += " " + client.Source.Addr().String() // a connection has told whose it is
	}
	l, err := t.get(m.Conns.Pool.Pool, key, connpool.Request[*origin.Conn]{By: v}, fresh)
	t.Outcome.Queue += v.queued
	if v.tunnel != nil {
		t.Ways.Current.NotCounting(time.Duration(v.tunnel.lookup.Load()))
	}
	return l, err
}

// CurrentPool is the pool that the connection of the current path belongs to.
func (t *Request) CurrentPool() *origin.Pool {
	if !t.Ways.Current.Direct() {
		return t.Ways.Current.Conns.Pool
	}
	return t.Proxy.Pool
}

// ProxyFields are the fields that the operator has given the current upstream, in
// canonical form. The client's own of these names are not for it.
func (t *Request) ProxyFields() http.Header {
	if !t.Absolute() {
		return nil
	}
	return t.Ways.Current.Spec.Header
}

// ViaError makes an error of an attempt through an upstream what it is to the
// upstream. The connection of an exchange in absolute form is the upstream's own, so
// what goes wrong on it before an answer is its fault; that of a tunnel stands, and
// what goes wrong on it is the origin's.
func (t *Request) ViaError(err error) *upstream.Error {
	m := t.Ways.Current.Member
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		return e
	}
	e := &upstream.Error{Upstream: m.Name, Err: err, Verdict: t.judgeExchange(err)}
	t.noteForbidden(m, &e.Verdict)
	if stale, ok := errors.AsType[*retry.StaleError](err); ok {
		e.Sent = stale.Written
		e.Stale = true
	} else if t.Absolute() && (errors.Is(err, failure.ErrSilent) || t.speaksOther(err)) {
		e.Sent = true // it may be the upstream that hangs, or is no proxy: another one may do better
	} else if _, dialing := errors.AsType[*proxydial.Error](err); !dialing && !failure.IsLimit(err) {
		e.Final = true
	}
	return e
}

// speaksOther reports whether what came instead of an answer is none of HTTP.
func (t *Request) speaksOther(err error) bool {
	p, ok := errors.AsType[*h1.ProtocolError](err)
	return ok && p.NoHTTP && !t.Ways.Current.answered
}

func (t *Request) judgeExchange(err error) upstream.Verdict {
	switch {
	case t.clientGone():
		return upstream.Verdict{Kind: health.Cancelled, Failure: failure.Canceled}
	case failure.IsLimit(err):
		return upstream.Verdict{Kind: health.Neutral, Failure: failure.Limit, Unsent: true}
	case errors.Is(err, proxydial.ErrClosed):
		return upstream.Verdict{Kind: health.Neutral, Failure: failure.NoUpstream, Unsent: true}
	}
	if _, ok := errors.AsType[*proxydial.Error](err); ok {
		return t.Ways.Current.JudgeTunnel(t.HTTP.Context(), err)
	}
	f := failure.Of(err)
	if !t.Absolute() {
		if f.Blame == failure.BlamePolicy || f.Blame == failure.BlameDNS || f.Blame == failure.BlameProxy || f.Blame == failure.BlameClient {
			return upstream.Verdict{Kind: health.Neutral, Failure: f, Unsent: !t.Ways.Current.stood}
		}
		return upstream.Verdict{Kind: health.Success, Failure: f} // the tunnel stood
	}
	if t.Ways.Current.answered {
		// It did its job that far. What is wrong with the rest may well be the
		// origin's doing: it must not be able to take an upstream out.
		return upstream.Verdict{Kind: health.Neutral, Failure: f}
	}
	switch f {
	case failure.Terminated, failure.Incomplete:
		if t.Outcome.Reused || t.Body != nil && t.Body.Waits() {
			// Nearly all proxies close where a client does not send its body in time.
			return upstream.Verdict{Kind: health.Neutral, Failure: failure.UpstreamTerminated}
		}
		return upstream.Verdict{Kind: health.Failure, Failure: failure.UpstreamTerminated, Relayed: true}
	case failure.Protocol:
		return upstream.Verdict{Kind: health.Failure, Failure: failure.UpstreamProtocol, Relayed: true}
	case failure.TLS, failure.TLSAlert:
		return upstream.Verdict{Kind: health.Failure, Failure: failure.UpstreamTLS}
	case failure.HeadTimeout:
		return upstream.Verdict{Kind: health.ReplyTimeout, Failure: failure.HeadTimeout}
	}
	return upstream.Verdict{Kind: health.Neutral, Failure: f}
}

// OwnAnswer reports, as an error, an answer that the upstream has made itself: it is
// no answer of the origin. It is relayed all the same where nothing else can be
// done, but for a challenge to us, which is none of the client's business.
func (t *Request) OwnAnswer(hd *h1.Head) error {
	reply := proxydial.ReplyOf(hd)
	if !upstream.MadeByUpstream(&reply) {
		return nil
	}
	e := &upstream.Error{
		Upstream: t.Ways.Current.Name,
		Verdict:  upstream.JudgeAnswer(&reply, t.Ways.Current.Authenticates()),
		Sent:     true, // whatever it says may be the origin's, relayed
		Err:      &proxydial.ReplyError{Reply: reply},
	}
	another := t.HasAnotherWay(e)
	e.Verdict.Alone, e.Verdict.Err = !another, e.Err
	t.tell(e.Verdict)
	challenge := e.Verdict.Failure == failure.UpstreamAuth || e.Verdict.Failure == failure.UpstreamChallenge
	if challenge || another {
		return e
	}
	t.Outcome.Failure = e.Verdict.Failure
	return nil
}

// HasAnotherWay reports whether the attempt that is about to fail with e can be
// followed by one through another member, or by the fallback of the route.
func (t *Request) HasAnotherWay(e *upstream.Error) bool {
	if t.WouldRetry(e) && t.hasAnother() {
		return true
	}
	return t.Ways.fallback != nil && t.fallbackTakes(e)
}
