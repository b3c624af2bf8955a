package egress

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

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// dialer is the one door through which connections leave: it resolves, checks
// every address against the access rules, and dials the literal address that
// was checked. There is no second look-up between check and dial, so a name
// that changes its address in between gains nothing. Answers that were
// remembered, stale ones included, and addresses of the hosts file pass the same
// check each time.
//
// resolve.go finds the addresses, candidates.go checks and orders them,
// dial_race.go tries them, source.go says where from.
type dialer struct {
	access        *accessRules
	self          *selfCheck
	circuits      *destinations
	timeout       time.Duration // of resolving and connecting together
	fallbackDelay time.Duration
	tlsTimeout    time.Duration
	tlsConfig     *tls.Config
	names         *nameState
	order         familyOrder
	sources       *sources

	// id tells what leaves from elsewhere, or to other addresses of a destination,
	// from the rest of what one pool holds. It is the zero value for the transport's
	// own settings.
	id unique.Handle[string]

	// dialAddr dials an address that was checked: dialAddr, but in tests.
	dialAddr func(context.Context, netip.AddrPort, source) (*net.TCPConn, error)
}

// dial connects to the destination, in the given scheme ("https" with TLS). The
// result is charged to the destination's circuit.
func (d *dialer) dial(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	report, err := d.circuits.allow(dest, useTLS, health.ProbeLimit)
	if err != nil {
		return nil, err
	}
	conn, err := d.dialUncharged(ctx, dest, useTLS)
	report.tell(err)
	return conn, err
}

func (d *dialer) dialUncharged(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	if useTLS {
		return d.dialTLS(ctx, dest)
	}
	conn, err := d.connect(ctx, hop{
		host:  dest.Host,
		addr:  dest.Addr,
		port:  dest.Port,
		check: func(a netip.Addr) error { return d.check(dest, a) },
		from:  d.sources.pick(ctx),
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
func (d *dialer) dialTLS(ctx context.Context, dest target.Target) (net.Conn, error) {
	var failed []netip.Addr
	to := hop{host: dest.Host, addr: dest.Addr, port: dest.Port, from: d.sources.pick(ctx)}
	to.check = func(a netip.Addr) error {
		if slices.Contains(failed, a) {
			return errHandshakeFailed
		}
		return d.check(dest, a)
	}
	var first error
	for {
		conn, err := d.connect(ctx, to)
		if err != nil {
			return nil, cmp.Or(first, err)
		}
		addr := remoteAddr(conn)
		tc, err := d.handshake(ctx, conn, dest.Host)
		if err == nil {
			for _, a := range failed {
				d.names.failed.mark(netip.AddrPortFrom(a, dest.Port))
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

// dialUpstream connects to an upstream proxy that the configuration names. It is
// the one exemption from the access rules, which are about destinations: what
// clients ask for never decides what is dialed here. An address on which this
// process listens is refused all the same, since it would be a loop. No
// destination's circuit is asked or charged: the health of an upstream is its
// own. host is a name or an address, in any spelling. As in dialMakingRoom, idle
// connections are closed where there is no descriptor left.
func (d *dialer) dialUpstream(ctx context.Context, host string, port uint16) (net.Conn, error) {
	host, addr, err := target.ParseHost(host)
	if err != nil {
		return nil, err
	}
	to := hop{
		host:  host,
		addr:  addr,
		port:  port,
		check: func(a netip.Addr) error { return d.checkLoop(a, port) },
		from:  d.sources.pick(ctx),
	}
	conn, err := d.connect(ctx, to)
	if err != nil && makeRoom(err) {
		conn, err = d.connect(ctx, to)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// hop is what is connected to next.
type hop struct {
	host  string
	addr  netip.Addr // valid where host is an address
	port  uint16
	check func(netip.Addr) error
	from  source
}

// connect resolves, checks and dials.
func (d *dialer) connect(parent context.Context, to hop) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(parent, d.timeout)
	defer cancel()
	order := to.from.restrict(d.order)
	list := newCandidates(order, d.names.failed, to)
	var arrivals <-chan dnscache.Answer
	if to.addr.IsValid() {
		list.add(dnscache.Answer{Addrs: []netip.Addr{to.addr}})
	} else {
		arrivals = d.names.resolve(ctx, to.host, order, list)
	}
	attempt := func(ctx context.Context, a netip.Addr) (*net.TCPConn, error) {
		return d.attempt(ctx, parent, netip.AddrPortFrom(a, to.port), to.from)
	}
	if arrivals == nil && list.len() == 1 {
		a, _ := list.next()
		return attempt(ctx, a) // there is nothing to race it against
	}
	return race(ctx, list, arrivals, d.fallbackDelay, attempt)
}

// check decides whether an address of dest may be dialed.
func (d *dialer) check(dest target.Target, a netip.Addr) error {
	rules := d.access.now()
	if err := rules.checkAddr(dest, a); err != nil {
		return err
	}
	if rules.opensSelf(a, dest.Port) {
		return nil
	}
	return d.checkLoop(a, dest.Port)
}

// checkLoop refuses an address on which this process listens.
func (d *dialer) checkLoop(a netip.Addr, port uint16) error {
	if d.self.isSelf(a, port) {
		return loopAt(netip.AddrPortFrom(a, port))
	}
	return nil
}

func loopAt(a netip.AddrPort) error { return fmt.Errorf("%w: this server listens on %s", failLoop, a) }

// attempt dials one address and remembers whether that failed. An attempt that
// was given its time and lost to a later one counts as failed: the next dial
// then begins with the one that answers.
func (d *dialer) attempt(ctx, parent context.Context, a netip.AddrPort, from source) (*net.TCPConn, error) {
	start := time.Now()
	conn, err := d.dialAddr(ctx, a, from)
	switch {
	case err == nil:
		d.names.failed.clear(a)
		if d.access == nil || !d.access.now().opensSelf(a.Addr(), a.Port()) {
			if d.self.dialed(conn, from != source{}) {
				_ = conn.Close()
				return nil, loopAt(a)
			}
		}
	case parent.Err() != nil || ctx.Err() != nil && time.Since(start) < d.fallbackDelay:
		// Nobody waits for it any more, or it had no time.
	case classify(err).blame != blameProxy:
		d.names.failed.mark(a)
	}
	return conn, err
}

// dialAddr dials one literal address: what stands in the string is an IP address,
// so nothing is looked up. DialTCP would save the detour through a string, but it
// takes an empty local address for one to bind to, and a bound port is used up
// for all destinations and not for one.
//
// Keep-alive probes are off: tunnels have an idle timer of their own and pooled
// connections are looked at before use, so four system calls a connection can be
// saved.
func dialAddr(ctx context.Context, a netip.AddrPort, from source) (*net.TCPConn, error) {
	nd := net.Dialer{KeepAlive: -1, Control: keepReserve}
	from.apply(&nd, "tcp", a.Addr())
	conn, err := nd.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return nil, from.explain(err, a.Addr())
	}
	return conn.(*net.TCPConn), nil
}

// tlsError is a TLS handshake that failed, so that a reset or an EOF within it
// is told apart from one of the connection.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// Timeout reports whether the handshake ran out of time.
func (e *tlsError) Timeout() bool {
	ne, ok := errors.AsType[net.Error](e.err)
	return ok && ne.Timeout() || errors.Is(e.err, context.DeadlineExceeded)
}

// handshake puts TLS over conn, which it closes on failure. The certificate
// must be valid for the name or address that the client asked for.
func (d *dialer) handshake(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.tlsTimeout)
	defer cancel()
	cfg := d.tlsConfig.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	tc := tls.Client(h1.NoteEOF(conn), cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &tlsError{err}
	}
	return tc, nil
}
