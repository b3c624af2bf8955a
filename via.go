package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains how exchanges go through an upstream proxy: those for http
// through an HTTP proxy in absolute form over connections to the proxy, all others
// over tunnels, which are pooled like direct connections.

// viaRequest is an exchange through an upstream as the pool sees it. Its dial may
// still run when the exchange is over.
type viaRequest struct {
	h        *Handler
	member   *member
	dest     target.Target
	https    bool
	client   proxydial.Client
	absolute bool
}

// Dial implements connpool.Requester.
func (v *viaRequest) Dial(ctx context.Context) (*originConn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(v.member.group.lb.AttemptTimeout))
	defer cancel()
	conn, err := v.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &originConn{Conn: h1.NewConn(conn), addr: remoteAddr(conn)}, nil
}

func (v *viaRequest) connect(ctx context.Context) (net.Conn, error) {
	if v.absolute {
		return v.member.conns.dialer.DialProxy(ctx, v.client)
	}
	tunnel, err := v.h.dialTunnel(ctx, v.member, v.dest, v.client, nil)
	if err != nil {
		return nil, err
	}
	conn := tunnel.Conn
	if len(tunnel.Early) > 0 {
		conn = &earlyConn{conn, tunnel.Early}
	}
	if !v.https {
		return conn, nil
	}
	return v.h.dialer.handshake(ctx, conn, v.dest.Host)
}

// Accept implements connpool.Requester: the address is the upstream's, which no
// access rule is about.
func (*viaRequest) Accept(*originConn) bool { return true }

// dialTunnel opens a tunnel to dest through a member. A socks5 upstream is told an
// address, which is looked up and checked here; the others are told what the
// client has said.
func (h *Handler) dialTunnel(ctx context.Context, m *member, dest target.Target, client proxydial.Client, header []h1.Field) (*proxydial.Tunnel, error) {
	to := proxydial.Target{Host: dest.Host, Port: dest.Port, Addr: dest.Addr, Header: header}
	if m.spec.addr.scheme == schemeSOCKS5 && !dest.IsAddr() {
		addr, err := h.dialer.lookup(ctx, dest)
		if err != nil {
			return nil, err
		}
		to.Addr = addr
	}
	return m.conns.dialer.DialTunnel(ctx, to, client)
}

// absolute reports whether the exchange goes through the current upstream in
// absolute form.
func (t *transaction) absolute() bool {
	m := t.paths.current.member
	return m != nil && !t.https && m.speaksHTTP()
}

// acquireVia gets a connection for an exchange through the current upstream.
func (t *transaction) acquireVia(fresh bool) (*lease, error) {
	m := t.paths.current.member
	v := &viaRequest{h: t.h, member: m, dest: t.target, https: t.https, absolute: t.absolute()}
	key := poolKey{tls: t.https, host: t.target.Host, port: t.target.Port}
	if v.absolute {
		key = poolKey{}
	}
	if m.spec.ProxyProtocol != "" {
		v.client = t.clientAddrs()
		key.host += " " + v.client.Source.Addr().String() // a connection has told whose it is
	}
	return t.get(m.conns.pool.Pool, key, connpool.Request[*originConn]{By: v}, fresh)
}

// poolOf is the pool that the connection of the current path belongs to.
func (t *transaction) currentPool() *originPool {
	if m := t.paths.current.member; m != nil {
		return m.conns.pool
	}
	return t.h.pool
}

// proxyFields are what an upstream is to be told beside the request.
func (s *upstreamSpec) proxyFields() (fields []h1.Field) {
	if c := s.credentials; c != nil {
		fields = append(fields, h1.Field{
			Name:  "Proxy-Authorization",
			Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password)),
		})
	}
	for name, values := range s.Header {
		for _, v := range values {
			fields = append(fields, h1.Field{Name: name, Value: v})
		}
	}
	return fields
}

func (m *member) appendProxyFields(b []byte) []byte {
	for i := range m.fields {
		b = h1.AppendField(b, m.fields[i].Name, m.fields[i].Value)
	}
	return b
}

func (m *member) setProxyFields(header http.Header) {
	for _, f := range m.fields {
		header.Add(f.Name, f.Value)
	}
}

// viaError makes an error of an attempt through an upstream what it is to the
// upstream. The connection of an exchange in absolute form is the upstream's own, so
// what goes wrong on it before an answer is its fault; that of a tunnel stands, and
// what goes wrong on it is the origin's.
func (t *transaction) viaError(err error) *upstreamError {
	m := t.paths.current.member
	if e, ok := errors.AsType[*upstreamError](err); ok {
		return e
	}
	e := &upstreamError{upstream: m.name, err: err, verdict: t.judgeExchange(err)}
	if stale, ok := errors.AsType[*staleError](err); ok {
		e.sent = stale.written
		e.stale = true
	} else if _, dialing := errors.AsType[*proxydial.Error](err); !dialing && !isLimit(err) {
		e.final = true
	}
	return e
}

func (t *transaction) judgeExchange(err error) verdict {
	switch {
	case t.clientGone():
		return verdict{kind: health.Cancelled, failure: failCanceled}
	case isLimit(err):
		return verdict{kind: health.Neutral, failure: failLimit}
	case errors.Is(err, proxydial.ErrClosed):
		return verdict{kind: health.Neutral, failure: failNoUpstream}
	}
	if _, ok := errors.AsType[*proxydial.Error](err); ok {
		return judgeTunnel(t.r.Context(), err)
	}
	failure := classify(err)
	if !t.absolute() {
		if failure.blame == blamePolicy || failure.blame == blameDNS || failure.blame == blameProxy || failure.blame == blameClient {
			return verdict{kind: health.Neutral, failure: failure}
		}
		return verdict{kind: health.Success, failure: failure} // the tunnel stood
	}
	switch failure {
	case failTerminated:
		if t.out.reused {
			return verdict{kind: health.Neutral, failure: failUpstreamTerminated}
		}
		return verdict{kind: health.Failure, failure: failUpstreamTerminated}
	case failProtocol:
		return verdict{kind: health.Failure, failure: failUpstreamProtocol}
	case failHeadTimeout:
		return verdict{kind: health.ReplyTimeout, failure: failHeadTimeout}
	}
	return verdict{kind: health.Neutral, failure: failure}
}

func isLimit(err error) bool {
	_, ok := errors.AsType[*connpool.LimitError](err)
	return ok
}

// ownAnswer reports, as an error, an answer that the upstream has made itself: it is
// no answer of the origin. It is relayed all the same where nothing else can be
// done, but for a challenge to us, which is none of the client's business.
func (t *transaction) ownAnswer(hd *h1.Head) error {
	reply := proxydial.ReplyOf(hd)
	if !madeByUpstream(&reply) {
		return nil
	}
	e := &upstreamError{
		upstream: t.paths.current.name,
		verdict:  judgeReply(&reply),
		sent:     hd.Status != 407, // which comes before anything is done
		err:      &proxydial.ReplyError{Reply: reply},
	}
	t.observed(e.verdict)
	if hd.Status == 407 || t.wouldRetry(e) {
		return e
	}
	t.out.failure = e.verdict.failure
	return nil
}

// lookup returns an address of dest that may be reached.
func (d *dialer) lookup(ctx context.Context, dest target.Target) (netip.Addr, error) {
	list, err := d.lookupAll(ctx, dest)
	if err != nil {
		return netip.Addr{}, err
	}
	a, ok := list.next()
	if !ok {
		return netip.Addr{}, list.failure(ctx)
	}
	return a, nil
}

// lookupAll resolves dest and checks its addresses, all of them.
func (d *dialer) lookupAll(parent context.Context, dest target.Target) (*candidates, error) {
	ctx, cancel := context.WithTimeout(parent, d.timeout)
	defer cancel()
	return d.collect(ctx, hop{
		host:  dest.Host,
		port:  dest.Port,
		check: func(a netip.Addr) error { return d.check(dest, a) },
	})
}

// collect resolves the name of a hop and waits for all of its addresses.
func (d *dialer) collect(ctx context.Context, to hop) (*candidates, error) {
	return d.collectOf(ctx, to, d.order)
}

// collectOf is collect for some families only.
func (d *dialer) collectOf(ctx context.Context, to hop, order familyOrder) (*candidates, error) {
	list := newCandidates(order, d.names.failed, to)
	if to.addr.IsValid() {
		list.add(dnscache.Answer{Addrs: []netip.Addr{to.addr}})
		return list, nil
	}
	for arrivals := d.names.resolve(ctx, to.host, order, list); arrivals != nil; {
		select {
		case answer, ok := <-arrivals:
			if !ok {
				arrivals = nil
				continue
			}
			list.add(answer)
		case <-ctx.Done():
			return nil, list.failure(ctx)
		}
	}
	return list, nil
}

// lookupUnchecked resolves a name that the operator has written: no rule is about it.
func (d *dialer) lookupUnchecked(parent context.Context, host string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(parent, d.timeout)
	defer cancel()
	list, err := d.collect(ctx, hop{host: host, port: 1, check: func(netip.Addr) error { return nil }})
	if err != nil {
		return netip.Addr{}, err
	}
	a, ok := list.next()
	if !ok {
		return netip.Addr{}, list.failure(ctx)
	}
	return a, nil
}

// checkNames resolves a name that an upstream will resolve, and refuses it if any of
// its addresses may not be reached: which of them the upstream takes is not ours
// to say.
func (d *dialer) checkNames(ctx context.Context, dest target.Target) error {
	if dest.IsAddr() {
		return d.access.checkAddr(dest, dest.Addr)
	}
	list, err := d.lookupAll(ctx, dest)
	switch {
	case err != nil:
		return err
	case list.refused != nil:
		return list.refused
	case list.len() == 0:
		return list.failure(ctx)
	}
	return nil
}

// forUpstreams is a dialer for upstream proxies. It holds nothing of the handler
// but what its transport is made of: it outlives the configuration.
func (d *dialer) forUpstreams() *dialer {
	c := *d
	c.access, c.circuits, c.tlsConfig = nil, nil, nil
	return &c
}
