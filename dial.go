package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/target"
)

// dialer is the one door through which connections leave: it resolves, checks
// every address against the access rules, and dials the literal address that
// was checked. There is no second look-up between check and dial, so a name
// that changes its address in between gains nothing.
type dialer struct {
	access        *accessList
	self          *selfCheck
	circuits      *destinations
	timeout       time.Duration // of resolving and connecting together
	fallbackDelay time.Duration
	tlsTimeout    time.Duration
	tlsConfig     *tls.Config
	resolve       func(ctx context.Context, host string) ([]netip.Addr, error)
}

// systemResolve asks the system resolver. The name is looked up as absolute:
// search domains would let a client reach names that it did not say. Names of one
// label (localhost, containers) are looked for in the hosts file first, where Go
// does not find them by their absolute form.
func systemResolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if !strings.Contains(host, ".") {
		if addrs, err := hostsFile.LookupNetIP(ctx, "ip", host); err == nil {
			return addrs, nil
		}
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".")
}

// hostsFile is a resolver that has nobody to ask and so knows only what stands
// in the hosts file.
var hostsFile = &net.Resolver{
	PreferGo: true,
	Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("only the hosts file is asked")
	},
}

// dial connects to the destination, in the given scheme ("https" with TLS). The
// result is charged to the destination's circuit.
func (d *dialer) dial(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	report, err := d.circuits.allow(dest, useTLS, "")
	if err != nil {
		return nil, err
	}
	conn, err := d.dialUncharged(ctx, dest, useTLS)
	report.tell(err)
	return conn, err
}

func (d *dialer) dialUncharged(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	conn, err := d.connect(ctx, dest)
	if err != nil {
		return nil, err
	}
	if !useTLS {
		return conn, nil
	}
	return d.handshake(ctx, conn, dest.Host)
}

// connect resolves, checks and dials.
func (d *dialer) connect(ctx context.Context, dest target.Target) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	addrs, err := d.addresses(ctx, dest)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 1 {
		return d.dialAddr(ctx, addrs[0], dest.Port)
	}
	return race(ctx, interleave(addrs), d.fallbackDelay, func(ctx context.Context, a netip.Addr) (*net.TCPConn, error) {
		return d.dialAddr(ctx, a, dest.Port)
	})
}

// addresses returns the addresses of dest that may be dialed. When none may,
// the error says why the first was refused.
func (d *dialer) addresses(ctx context.Context, dest target.Target) ([]netip.Addr, error) {
	if dest.IsAddr() {
		return []netip.Addr{dest.Addr}, d.check(dest, dest.Addr)
	}
	resolved, err := d.resolve(ctx, dest.Host)
	if err != nil {
		return nil, err
	}
	if len(resolved) == 0 {
		return nil, &net.DNSError{Err: "no addresses", Name: dest.Host, IsNotFound: true}
	}
	var allowed []netip.Addr
	var refused error
	for _, a := range resolved {
		a = a.Unmap()
		if err := d.check(dest, a); err == nil {
			allowed = append(allowed, a)
		} else if refused == nil {
			refused = err
		}
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	return allowed, nil
}

// check decides whether an address of dest may be dialed.
func (d *dialer) check(dest target.Target, a netip.Addr) error {
	if err := d.access.checkAddr(dest, a); err != nil {
		return err
	}
	if d.self.isSelf(a, dest.Port) && !d.access.opensSelf(a, dest.Port) {
		return fmt.Errorf("%w: this server listens on %s", failLoop, netip.AddrPortFrom(a, dest.Port))
	}
	return nil
}

// dialAddr dials one literal address: what stands in the string is an IP address,
// so nothing is looked up. DialTCP would save the detour through a string, but it
// takes an empty local address for one to bind to, and a bound port is used up
// for all destinations and not for one.
//
// Keep-alive probes are off: tunnels have an idle timer of their own and pooled
// connections are looked at before use, so four system calls a connection can be
// saved.
func (d *dialer) dialAddr(ctx context.Context, a netip.Addr, port uint16) (*net.TCPConn, error) {
	nd := net.Dialer{KeepAlive: -1}
	conn, err := nd.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// race dials the addresses one after the other, each after delay or as soon as
// the one before has failed, and takes the first connection that stands (RFC
// 8305 §5).
func race[C io.Closer](ctx context.Context, addrs []netip.Addr, delay time.Duration, dial func(context.Context, netip.Addr) (C, error)) (C, error) {
	attempts, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialed[C], len(addrs))
	next, pending := 0, 0
	start := func() {
		a := addrs[next]
		next++
		pending++
		go func() {
			conn, err := dial(attempts, a)
			results <- dialed[C]{conn, err}
		}()
	}
	start()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var firstErr error
	for {
		select {
		case <-timer.C:
			if next < len(addrs) {
				start()
				timer.Reset(delay)
			}
		case r := <-results:
			pending--
			if r.err == nil {
				go closeLosers(results, pending)
				return r.conn, nil
			}
			if firstErr == nil {
				firstErr = r.err
			}
			switch {
			case ctx.Err() == nil && next < len(addrs):
				start()
				timer.Reset(delay)
			case pending > 0:
			case errors.Is(ctx.Err(), context.Canceled):
				// Nobody waits any more: the addresses that were not given
				// their time are no failure of the destination.
				return r.conn, ctx.Err()
			default:
				return r.conn, firstErr
			}
		}
	}
}

// dialed is what an attempt of a race brought.
type dialed[C io.Closer] struct {
	conn C
	err  error
}

// closeLosers closes what the attempts that lost the race still bring. Their
// context is cancelled, so they end at once.
func closeLosers[C io.Closer](results <-chan dialed[C], pending int) {
	for range pending {
		if r := <-results; r.err == nil {
			_ = r.conn.Close()
		}
	}
}

// interleave alternates the address families, beginning with the family of the
// first address (RFC 8305 §4).
func interleave(addrs []netip.Addr) []netip.Addr {
	var same, other []netip.Addr
	for _, a := range addrs {
		if a.Is4() == addrs[0].Is4() {
			same = append(same, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := 0; i < max(len(same), len(other)); i++ {
		if i < len(same) {
			out = append(out, same[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
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
func (d *dialer) handshake(ctx context.Context, conn *net.TCPConn, host string) (net.Conn, error) {
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
