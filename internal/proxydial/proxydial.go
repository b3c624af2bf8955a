package proxydial

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/h1"
)

// Dialer speaks to one proxy. It is safe for concurrent use.
type Dialer struct {
	cfg     Config
	tlsH1   *tls.Config // ALPN http/1.1
	tlsBoth *tls.Config // ALPN h2, http/1.1; nil where tunnels use HTTP/1.1 only
	extra   []byte      // the fields of CONNECT behind Host, written for HTTP/1.1
	base    int         // the size of those fields
	closed  atomic.Bool

	pool    *pool // of HTTP/2 connections
	standby *standby
}

// Client is on whose behalf a connection is made. It is used for the PROXY
// protocol only. Without a valid Source, the header says that the connection is
// our own.
type Client struct {
	// Source is the address of the client.
	Source netip.AddrPort
	// Destination is the address the client has connected to: one of ours. If
	// it is not valid, the unspecified address stands in for it.
	Destination netip.AddrPort
}

// Target is a destination.
type Target struct {
	// Host is a name or an IP address without brackets. The caller has checked
	// that it may be reached.
	Host string
	// Port is not 0.
	Port uint16
	// Addr is what Host was resolved to. It is required for SOCKS5, and not
	// used otherwise.
	Addr netip.Addr
	// Header is added to this CONNECT, beside the fields of the configuration
	// and with the same rules. It must not be changed, and is not used for SOCKS.
	Header []h1.Field
	// Asked is called when a SOCKS proxy has been asked, and only its answer is waited for.
	// Nil is nothing.
	Asked func()
}

// Tunnel is a connection to a destination.
type Tunnel struct {
	// Conn carries the bytes. On HTTP/1.1 and SOCKS without TLS it is what Dial
	// has returned, so that the kernel can splice it; otherwise it has the
	// methods CloseWrite and Abort.
	Conn net.Conn
	// Early came behind the proxy's answer and precedes what Conn reads.
	Early []byte
	// Reply is the answer to CONNECT.
	Reply Reply
	// Protocol is "http/1.1", "h2" or "socks5".
	Protocol string
	// Reused is true where the connection to the proxy stood already.
	Reused bool
}

// Stats is a snapshot for metrics.
type Stats struct {
	Conns   int // open HTTP/2 connections
	Streams int // tunnels on them, those being asked for included
	Standby int // connections dialed ahead and not taken
}

// New checks cfg and returns a Dialer. It dials nothing.
func New(cfg Config) (*Dialer, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("upstream proxy: %w", err)
	}
	cfg.setDefaults()
	d := &Dialer{cfg: cfg}
	if cfg.Scheme == HTTPS {
		d.tlsH1 = withProtocols(cfg.TLS, "http/1.1")
		if !cfg.DisableHTTP2 && cfg.ProxyProtocol == 0 {
			d.tlsBoth = withProtocols(cfg.TLS, http2.NextProtoTLS, "http/1.1")
		}
	}
	d.extra, d.base = cfg.connectFields(), fieldsSize(cfg.fields())
	d.pool = newPool(d)
	d.standby = newStandby(d)
	return d, nil
}

func withProtocols(c *tls.Config, protocols ...string) *tls.Config {
	c = c.Clone()
	c.NextProtos = protocols
	return c
}

// DialTunnel asks the proxy for a tunnel to a destination. When ctx ends, it
// returns at once and closes what was meant for this tunnel only: a stream, or a
// connection that nobody shares.
func (d *Dialer) DialTunnel(ctx context.Context, to Target, client Client) (*Tunnel, error) {
	if d.closed.Load() {
		return nil, ErrClosed
	}
	if err := d.checkTarget(to); err != nil {
		return nil, err
	}
	if d.cfg.Scheme == SOCKS5 || d.cfg.Scheme == SOCKS5H {
		return d.dialSOCKS(ctx, to, client)
	}
	req := d.newRequest(to)
	switch {
	case req.size > maxHead:
		return nil, &HeadSizeError{req.size, maxHead}
	case d.tlsBoth != nil:
		return d.dialNegotiated(ctx, req)
	default:
		return d.dialHTTP1(ctx, req, client)
	}
}

// request is what a CONNECT says that others do not.
type request struct {
	authority string
	header    []h1.Field
	bare      int // the size without header
	size      int // of all fields
}

func (d *Dialer) newRequest(to Target) request {
	req := request{authority: authority(to), header: to.Header}
	req.bare = d.base + len(":method"+"CONNECT"+":authority") + len(req.authority) + 2*fieldOverhead
	req.size = req.bare + fieldsSize(to.Header)
	return req
}

const (
	// MaxHead bounds what a CONNECT may take, whatever the proxy allows: in HTTP/1.1
	// it does not say what that is.
	maxHead = 64 << 10
	// fieldOverhead is added for each field (RFC 9113 §6.5.2).
	fieldOverhead = 32
)

// fieldsSize is the size of fields as HTTP/2 counts it.
func fieldsSize(fields []h1.Field) (n int) {
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + fieldOverhead
	}
	return n
}

// authority is the target of a CONNECT (RFC 9110 §9.3.6).
func authority(to Target) string {
	return net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))
}

// checkTarget refuses what would break out of where it is written.
func (d *Dialer) checkTarget(to Target) error {
	if err := checkFields(to.Header); err != nil {
		return badArgument("%v", err)
	}
	switch {
	case to.Host == "":
		return badArgument("destination without a host")
	case to.Port == 0:
		return badArgument("destination %q without a port", to.Host)
	case d.cfg.Scheme == SOCKS5 && !to.Addr.IsValid():
		return badArgument("destination %q without an address, which socks5 needs", to.Host)
	case d.cfg.Scheme == SOCKS5:
		return nil // the name is not sent
	}
	if a, err := netip.ParseAddr(to.Host); err == nil {
		if a.Zone() != "" {
			return badArgument("destination %q with a zone", to.Host)
		}
		return nil
	}
	if len(to.Host) > 255 {
		return badArgument("destination with a name of %d bytes, over 255", len(to.Host))
	}
	if strings.ContainsAny(to.Host, ":/?#@[]\\%\"<>^`{|}, ") || !httpguts.ValidHostHeader(to.Host) ||
		slices.ContainsFunc([]byte(to.Host), func(b byte) bool { return b <= ' ' || b >= 0x7f }) {
		return badArgument("destination %.60q is not a host", to.Host)
	}
	return nil
}

// DialProxy connects to the proxy itself, after the PROXY protocol header and
// TLS with ALPN http/1.1, for exchanges in absolute form. The connection is a
// *tls.Conn or what Dial has returned; it belongs to the caller. One with a
// PROXY protocol header carries the exchanges of that client only.
//
// since is when a connection was dialed that has waited on standby, and zero otherwise.
// The proxy may have given it up in the meantime, as any idle connection. within is how
// long it may have waited; 0: for any time, below: it is to be dialed now.
func (d *Dialer) DialProxy(ctx context.Context, client Client, within time.Duration) (conn net.Conn, since time.Time, err error) {
	if d.closed.Load() {
		return nil, since, ErrClosed
	}
	if d.cfg.Scheme != HTTP && d.cfg.Scheme != HTTPS {
		return nil, since, badArgument("scheme %s carries tunnels only", d.cfg.Scheme)
	}
	if c, since := d.standby.take(within); c != nil {
		return c, since, nil
	}
	conn, err = d.open(ctx, d.tlsH1, client)
	return conn, since, err
}

// Standby keeps n connections ready: dialed ahead one at a time, only while the
// proxy is said to be up (SetUp), watched while they wait, and replaced when they
// are taken, end, or have waited for IdleTimeout. For a proxy that speaks
// HTTP/2, these are connections with room for another tunnel. It may be called
// again with another number. With the PROXY protocol, which names one client per
// connection, any n but 0 is an error.
func (d *Dialer) Standby(n int) error {
	if n < 0 {
		return badArgument("standby %d is negative", n)
	}
	if n > 0 && d.cfg.ProxyProtocol != 0 {
		return badArgument("standby and the PROXY protocol rule each other out")
	}
	d.standby.resize(n)
	return nil
}

// SetUp tells whether the proxy is up. It counts as down until said otherwise;
// that matters to Standby alone.
func (d *Dialer) SetUp(up bool) { d.standby.setUp(up) }

// Stats counts what is open now.
func (d *Dialer) Stats() Stats {
	conns, streams := d.pool.count()
	return Stats{Conns: conns, Streams: streams, Standby: d.standby.count()}
}

// Close lets no new tunnel begin, closes what is idle, and returns when nothing
// is dialed ahead any more. Tunnels that run are left to finish, after which
// their connections close; those being asked for fail with ErrClosed, unless
// they have a connection already.
func (d *Dialer) Close() {
	d.closed.Store(true)
	d.standby.close()
	d.pool.close()
}
