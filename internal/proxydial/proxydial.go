// Package proxydial speaks to one upstream proxy: it asks for tunnels to
// destinations with HTTP/1.1 CONNECT, HTTP/2 CONNECT or SOCKS5, and hands out
// connections to the proxy itself for exchanges in absolute form.
//
// It resolves nothing and dials nothing: the caller gives a function that
// connects to the proxy, and the address of the destination where the proxy
// wants one.
//
// Over TLS, a proxy that speaks HTTP/2 gets many tunnels on few connections. A
// PROXY protocol header names one client per connection, and so rules out what
// is not made for one client alone: with it, every tunnel has a connection of
// its own with HTTP/1.1, and none is dialed ahead.
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

// Scheme is how a proxy is spoken to.
type Scheme string

// The schemes.
const (
	HTTP    Scheme = "http"    // HTTP/1.1 CONNECT
	HTTPS   Scheme = "https"   // the same over TLS, or HTTP/2 CONNECT
	SOCKS5  Scheme = "socks5"  // the destination as an IP address
	SOCKS5H Scheme = "socks5h" // the destination as a name, where it has one
)

// Config is what a Dialer is made from. It must not be changed afterwards.
type Config struct {
	// Scheme is required.
	Scheme Scheme
	// Dial connects to the proxy. It is required, and must return when its
	// context ends.
	Dial func(ctx context.Context) (net.Conn, error)

	// TLS is required for HTTPS, with a ServerName unless the certificate is
	// verified otherwise. Its NextProtos is not used.
	TLS *tls.Config
	// TLSTimeout bounds the handshake. Default: 10 s.
	TLSTimeout time.Duration
	// ReplyTimeout bounds the wait for the answer to CONNECT, or the whole
	// conversation of SOCKS, once the connection stands. Default: none but the
	// context's.
	ReplyTimeout time.Duration

	// User and Password are sent in Proxy-Authorization, or as RFC 1929 wants
	// them in SOCKS, where Authenticate is true.
	Authenticate   bool
	User, Password string
	// Header is added to every CONNECT. There is no User-Agent unless it is in
	// there. Host, Proxy-Authorization, connection fields and those that frame a
	// message are errors.
	Header []h1.Field
	// MaxReplyHead bounds the head of an answer in bytes. Default: 16 KiB.
	MaxReplyHead int

	// ProxyProtocol is the version of the PROXY protocol header that opens each
	// connection: 1, 2, or 0 for none.
	ProxyProtocol int

	// DisableHTTP2 keeps tunnels over HTTPS to HTTP/1.1.
	DisableHTTP2 bool
	// MaxTunnelsPerConn bounds the tunnels on one HTTP/2 connection, below what
	// the proxy allows. Default: 100.
	MaxTunnelsPerConn int
	// StreamWindow is how many bytes of a tunnel over HTTP/2 may wait for their
	// reader: what a slow reader costs. Default: 256 KiB.
	StreamWindow int
	// PingInterval is how long an HTTP/2 connection with tunnels may be silent
	// before it is asked for a sign of life. Default: 15 s.
	PingInterval time.Duration
	// PingTimeout is how long the sign may take before the connection counts as
	// dead. Default: 5 s.
	PingTimeout time.Duration
	// IdleTimeout closes HTTP/2 connections without tunnels, and replaces
	// connections dialed ahead. Default: 55 s.
	IdleTimeout time.Duration
	// StandbyRetry is how long the dialing ahead pauses after a failure.
	// Default: 1 s.
	StandbyRetry time.Duration
}

// Dialer speaks to one proxy. It is safe for concurrent use.
type Dialer struct {
	cfg     Config
	tlsH1   *tls.Config // ALPN http/1.1
	tlsBoth *tls.Config // ALPN h2, http/1.1; nil where tunnels use HTTP/1.1 only
	extra   []byte      // the fields of CONNECT behind Host, written for HTTP/1.1
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
	Port uint16
	// Addr is what Host was resolved to. It is required for SOCKS5, and not
	// used otherwise.
	Addr netip.Addr
	// Header is added to this CONNECT, beside the fields of the configuration
	// and with the same rules. It must not be changed, and is not used for SOCKS.
	Header []h1.Field
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

const (
	defaultTLSTimeout   = 10 * time.Second
	defaultReplyHead    = 16 << 10
	defaultTunnels      = 100
	defaultWindow       = 256 << 10
	defaultPingInterval = 15 * time.Second
	defaultPingTimeout  = 5 * time.Second
	defaultIdleTimeout  = 55 * time.Second
	defaultStandbyRetry = time.Second
)

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
	d.extra = cfg.connectFields()
	d.pool = newPool(d)
	d.standby = newStandby(d)
	return d, nil
}

func withProtocols(c *tls.Config, protocols ...string) *tls.Config {
	c = c.Clone()
	c.NextProtos = protocols
	return c
}

func (c *Config) setDefaults() {
	orDefault(&c.TLSTimeout, defaultTLSTimeout)
	orDefault(&c.MaxReplyHead, defaultReplyHead)
	orDefault(&c.MaxTunnelsPerConn, defaultTunnels)
	orDefault(&c.StreamWindow, defaultWindow)
	orDefault(&c.PingInterval, defaultPingInterval)
	orDefault(&c.PingTimeout, defaultPingTimeout)
	orDefault(&c.IdleTimeout, defaultIdleTimeout)
	orDefault(&c.StandbyRetry, defaultStandbyRetry)
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// check refuses what cannot be meant.
func (c *Config) check() error {
	switch c.Scheme {
	case HTTP, HTTPS, SOCKS5, SOCKS5H:
	default:
		return fmt.Errorf("scheme %q is none of http, https, socks5, socks5h", c.Scheme)
	}
	if c.Dial == nil {
		return fmt.Errorf("no function to dial with")
	}
	if (c.Scheme == HTTPS) != (c.TLS != nil) {
		return fmt.Errorf("scheme %s and TLS settings: the one needs the other", c.Scheme)
	}
	if c.ProxyProtocol < 0 || c.ProxyProtocol > 2 {
		return fmt.Errorf("PROXY protocol version %d is neither 1 nor 2", c.ProxyProtocol)
	}
	// SETTINGS_INITIAL_WINDOW_SIZE is below 2^31 (RFC 9113 §6.9.2).
	if c.StreamWindow < 0 || c.StreamWindow > 1<<30 {
		return fmt.Errorf("stream window of %d bytes is not between 0 and 1 GiB", c.StreamWindow)
	}
	if c.MaxTunnelsPerConn < 0 {
		return fmt.Errorf("%d tunnels a connection", c.MaxTunnelsPerConn)
	}
	// Below 256 bytes, no answer with a usual field gets through.
	if c.MaxReplyHead != 0 && (c.MaxReplyHead < 256 || c.MaxReplyHead > 16<<20) {
		return fmt.Errorf("reply head limit of %d bytes is not between 256 and 16 MiB", c.MaxReplyHead)
	}
	for name, d := range map[string]time.Duration{
		"TLS timeout": c.TLSTimeout, "reply timeout": c.ReplyTimeout, "ping interval": c.PingInterval,
		"ping timeout": c.PingTimeout, "idle timeout": c.IdleTimeout, "standby retry": c.StandbyRetry,
	} {
		if d < 0 {
			return fmt.Errorf("%s %v is negative", name, d)
		}
	}
	if err := c.checkCredentials(); err != nil {
		return err
	}
	return c.checkHeader()
}

func (c *Config) checkCredentials() error {
	switch {
	case !c.Authenticate:
		if c.User != "" || c.Password != "" {
			return fmt.Errorf("credentials that are not to be used")
		}
	case c.Scheme == SOCKS5 || c.Scheme == SOCKS5H:
		// RFC 1929 §2: one byte each for the lengths, and at least one byte.
		if n := len(c.User); n < 1 || n > 255 {
			return fmt.Errorf("user name of %d bytes, not 1 to 255 (RFC 1929)", n)
		}
		if n := len(c.Password); n < 1 || n > 255 {
			return fmt.Errorf("password of %d bytes, not 1 to 255 (RFC 1929)", n)
		}
	case strings.Contains(c.User, ":"):
		return fmt.Errorf("user name with a colon (RFC 7617 section 2)")
	}
	return nil
}

// ownFields are not for the configuration to set: this package writes them, they
// frame the message, or they are about the connection.
var ownFields = []string{
	"Host", "Proxy-Authorization", "Content-Length", "Transfer-Encoding", "Connection",
	"Proxy-Connection", "Keep-Alive", "Upgrade", "Te", "Trailer", "Expect",
}

func (c *Config) checkHeader() error {
	if len(c.Header) > 0 && c.Scheme != HTTP && c.Scheme != HTTPS {
		return fmt.Errorf("header fields for scheme %s", c.Scheme)
	}
	return checkFields(c.Header)
}

// checkFields refuses what cannot be sent, and what is not for others to set.
func checkFields(fields []h1.Field) error {
	for _, f := range fields {
		if !h1.ValidField(f.Name, f.Value) {
			return fmt.Errorf("header field %q cannot be sent", f.Name)
		}
		for _, own := range ownFields {
			if strings.EqualFold(f.Name, own) {
				return fmt.Errorf("header field %s cannot be set", f.Name)
			}
		}
	}
	return nil
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
	switch {
	case d.cfg.Scheme == SOCKS5 || d.cfg.Scheme == SOCKS5H:
		return d.dialSOCKS(ctx, to, client)
	case d.tlsBoth != nil:
		return d.dialNegotiated(ctx, request{authority(to), to.Header})
	default:
		return d.dialHTTP1(ctx, request{authority(to), to.Header}, client)
	}
}

// request is what a CONNECT says that others do not.
type request struct {
	authority string
	header    []h1.Field
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
func (d *Dialer) DialProxy(ctx context.Context, client Client) (net.Conn, error) {
	if d.closed.Load() {
		return nil, ErrClosed
	}
	if d.cfg.Scheme != HTTP && d.cfg.Scheme != HTTPS {
		return nil, badArgument("scheme %s carries tunnels only", d.cfg.Scheme)
	}
	if c := d.standby.take(); c != nil {
		return c, nil
	}
	return d.open(ctx, d.tlsH1, client)
}

// Standby keeps n connections ready: dialed ahead one at a time, only while the
// proxy is said to be up (SetUp), looked at before use, and replaced when they
// are taken, die, or have waited for IdleTimeout. For a proxy that speaks
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
