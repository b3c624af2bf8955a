package dial

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
	"unique"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/timing"
	"github.com/caddy-egress/egress/internal/tracing"
)

// Dialer is the one door through which connections leave: it resolves, checks
// every address against the access rules, and dials the literal address that
// was checked. There is no second look-up between check and dial, so a name
// that changes its address in between gains nothing. Answers that were
// remembered, stale ones included, and addresses of the hosts file pass the same
// check each time.
//
// names.go finds the addresses, candidates.go checks and orders them,
// race.go tries them, source.go says where from.
type Dialer struct {
	Access        *acl.Rules
	Self          *self.Check
	Timeout       time.Duration // of resolving and connecting together
	FallbackDelay time.Duration
	TLSTimeout    time.Duration
	TLSConfig     *tls.Config
	Names         *Names
	Order         FamilyOrder
	Sources       *Sources
	Recorder      Recorder // nil for none

	// ID tells what leaves from elsewhere, or to other addresses of a destination,
	// from the rest of what one pool holds. It is the zero value for the transport's
	// own settings.
	ID unique.Handle[string]

	// ToAddr dials an address that was checked: ToAddr, but in tests.
	DialAddr func(context.Context, netip.AddrPort, Source) (*net.TCPConn, error)
}

// Dial connects to the destination, with TLS where it is wanted. Where the process or
// the system has no descriptor left, it closes idle connections and tries once more.
func (d *Dialer) Dial(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	conn, err := d.dialOnce(ctx, dest, useTLS)
	if err != nil && descriptors.MakeRoom(err) {
		return d.dialOnce(ctx, dest, useTLS)
	}
	return conn, err
}

func (d *Dialer) dialOnce(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	if useTLS {
		return d.dialTLS(ctx, dest)
	}
	conn, err := d.connect(ctx, Hop{
		host:  dest.Host,
		addr:  dest.Addr,
		port:  dest.Port,
		check: func(a netip.Addr) error { return d.Check(dest, a) },
		from:  d.Sources.Pick(ctx),
	})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// maxHandshakes is how many addresses of a destination TLS is tried with.
const maxHandshakes = 3

// errHandshakeFailed keeps an address from being tried again for one connection.
var errHandshakeFailed = errors.New("TLS has failed with this address")

// dialTLS connects to the destination with TLS. Where the handshake fails at one
// address, others are tried: no byte of a request was sent. That it succeeds there
// shows that it was the address, which is then tried last for a while.
func (d *Dialer) dialTLS(ctx context.Context, dest target.Target) (net.Conn, error) {
	var failed []netip.Addr
	to := Hop{host: dest.Host, addr: dest.Addr, port: dest.Port, from: d.Sources.Pick(ctx)}
	to.check = func(a netip.Addr) error {
		if slices.Contains(failed, a) {
			return errHandshakeFailed
		}
		return d.Check(dest, a)
	}
	var first error
	for {
		conn, err := d.connect(ctx, to)
		if err != nil {
			return nil, cmp.Or(first, err)
		}
		addr := RemoteAddr(conn)
		tc, err := d.Handshake(ctx, conn, dest.Host)
		if err == nil {
			for _, a := range failed {
				d.Names.failed.Mark(netip.AddrPortFrom(a, dest.Port))
			}
			return tc, nil
		}
		first = cmp.Or(first, err)
		failed = append(failed, addr)
		if ctx.Err() != nil || dest.IsAddr() || len(failed) == maxHandshakes {
			return nil, first
		}
	}
}

// DialUpstream connects to an upstream proxy that the configuration names. It is
// the one exemption from the access rules, which are about destinations: what
// clients ask for never decides what is dialed here. An address on which this
// process listens is refused all the same, since it would be a loop. No
// destination's circuit is asked or charged: the health of an upstream is its
// own. host is a name or an address, in any spelling. As in dial, idle
// connections are closed where there is no descriptor left.
func (d *Dialer) DialUpstream(ctx context.Context, host string, port uint16) (net.Conn, error) {
	host, addr, err := target.ParseHost(host)
	if err != nil {
		return nil, err
	}
	to := Hop{
		host:  host,
		addr:  addr,
		port:  port,
		check: func(a netip.Addr) error { return d.checkLoop(a, port) },
		from:  d.Sources.Pick(ctx),
	}
	conn, err := d.connect(ctx, to)
	if err != nil && descriptors.MakeRoom(err) {
		conn, err = d.connect(ctx, to)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Hop is what is connected to next.
type Hop struct {
	host  string
	addr  netip.Addr // valid where host is an address
	port  uint16
	check func(netip.Addr) error
	from  Source
}

// connect resolves, checks and dials.
func (d *Dialer) connect(parent context.Context, to Hop) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	order := to.from.restrict(d.Order)
	list := newCandidates(order, d.Names.failed, to)
	var arrivals <-chan dnscache.Answer
	if to.addr.IsValid() {
		list.add(dnscache.Answer{Addrs: []netip.Addr{to.addr}})
	} else {
		arrivals = d.Names.resolve(ctx, to.host, order, list, d.Recorder)
	}
	if arrivals == nil && list.len() == 1 { // there is nothing to race it against
		a, _ := list.next()
		return d.attempt(ctx, parent, netip.AddrPortFrom(a, to.port), to.from)
	}
	return race(ctx, list, arrivals, d.FallbackDelay, func(ctx context.Context, a netip.Addr) (*net.TCPConn, error) {
		return d.attempt(ctx, parent, netip.AddrPortFrom(a, to.port), to.from)
	})
}

// Check decides whether an address of dest may be dialed.
func (d *Dialer) Check(dest target.Target, a netip.Addr) error {
	rules := d.Access.Now()
	if err := rules.CheckAddr(dest, a); err != nil {
		return err
	}
	if rules.OpensSelf(a, dest.Port) {
		return nil
	}
	return d.checkLoop(a, dest.Port)
}

// checkLoop refuses an address on which this process listens.
func (d *Dialer) checkLoop(a netip.Addr, port uint16) error {
	if d.Self.IsSelf(a, port) {
		return loopAt(netip.AddrPortFrom(a, port))
	}
	return nil
}

func loopAt(a netip.AddrPort) error {
	return fmt.Errorf("%w: this server listens on %s", failure.Loop, a)
}

// attempt dials one address, as a span.
func (d *Dialer) attempt(ctx, parent context.Context, a netip.AddrPort, from Source) (*net.TCPConn, error) {
	ctx, span := tracing.Start(ctx, "egress.dial")
	conn, err := d.attemptTo(ctx, parent, a, from)
	if span.On() {
		span.Peer(a.Addr(), a.Port())
		if err != nil {
			span.Fail(cmp.Or(failure.Of(err).Type, tracing.Canceled))
		}
		span.End()
	}
	return conn, err
}

// attemptTo dials one address and remembers whether that failed. An attempt that
// was given its time and lost to a later one counts as failed: the next dial
// then begins with the one that answers.
func (d *Dialer) attemptTo(ctx, parent context.Context, a netip.AddrPort, from Source) (*net.TCPConn, error) {
	start := time.Now()
	conn, err := d.DialAddr(ctx, a, from)
	timing.Of(ctx).Since(timing.Connect, start, err == nil)
	switch {
	case err == nil:
		d.Names.failed.Clear(a)
		if d.Access == nil || !d.Access.Now().OpensSelf(a.Addr(), a.Port()) {
			if d.Self.Dialed(conn, from != Source{}) {
				_ = conn.Close()
				return nil, loopAt(a)
			}
		}
	case parent.Err() != nil || ctx.Err() != nil && time.Since(start) < d.FallbackDelay:
		// Nobody waits for it any more, or it had no time.
	case failure.Of(err).Blame != failure.BlameProxy:
		d.Names.failed.Mark(a)
	}
	return conn, err
}

// ToAddr dials one literal address: what stands in the string is an IP address,
// so nothing is looked up. DialTCP would save the detour through a string, but it
// takes an empty local address for one to bind to, and a bound port is used up
// for all destinations and not for one.
//
// Keep-alive probes are off: tunnels have an idle timer of their own and pooled
// connections are looked at before use, so four system calls a connection can be
// saved. One address has none to fall back to.
func ToAddr(ctx context.Context, a netip.AddrPort, from Source) (*net.TCPConn, error) {
	nd := net.Dialer{KeepAlive: -1, FallbackDelay: -1, Control: descriptors.KeepReserve}
	from.apply(&nd, "tcp", a.Addr())
	conn, err := nd.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return nil, from.explain(err, a.Addr())
	}
	return conn.(*net.TCPConn), nil
}

// Handshake puts TLS over conn, which it closes on failure. The certificate
// must be valid for the name or address that the client asked for. A session is resumed
// only from the source and on the way that it began on.
func (d *Dialer) Handshake(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.TLSTimeout)
	defer cancel()
	cfg := d.TLSConfig.Clone()
	cfg.ClientSessionCache = sessionsOf(ctx, cfg.ClientSessionCache, d.ID)
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	start := time.Now()
	tc := tls.Client(h1.NoteEOF(conn), cfg)
	err := tc.HandshakeContext(ctx)
	if d.Recorder != nil {
		d.Recorder.Handshaken(time.Since(start), err)
	}
	if err != nil {
		_ = conn.Close()
		return nil, &failure.TLSError{Err: err}
	}
	return tc, nil
}
