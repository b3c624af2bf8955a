package proxydial

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
)

// This file contains the configuration of a Dialer.

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
	// Sessions is the part of TLS's session cache for a handshake, whose context it is
	// given. nil: all of it.
	Sessions func(context.Context, tls.ClientSessionCache) tls.ClientSessionCache
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
	// SignTimeout is how long an HTTP/2 connection may be silent under a CONNECT
	// before it is asked for a sign of life, and how long that sign may take
	// before no new tunnel begins there and the CONNECT is sent again elsewhere.
	// It is four times what the proxy's settings took, where that is more, and
	// PingTimeout at most. Default: 1 s.
	SignTimeout time.Duration
	// StarveTimeout is how long tunnels over HTTP/2 whose destinations take nothing
	// may together hold what the proxy lets the whole connection send, while other
	// tunnels wait for it. Default: 10 s.
	StarveTimeout time.Duration
	// ShareWait is how long a tunnel over HTTP/2 stands at its share of what the proxy
	// lets the connection send before it may send a little more, to find out when the
	// proxy gives a window back; and half of how long such a tunnel may stop others.
	// Default: 1 s.
	ShareWait time.Duration
	// IdleTimeout closes HTTP/2 connections without tunnels, and replaces
	// connections dialed ahead. Default: 55 s.
	IdleTimeout time.Duration
	// StandbyRetry is how long the dialing ahead pauses after a failure, and twice as
	// long after each further one, up to 30 s. A connection that ends sooner than that
	// after it was dialed is a failure. Default: 1 s.
	StandbyRetry time.Duration
}

const (
	defaultTLSTimeout   = 10 * time.Second
	defaultReplyHead    = 16 << 10
	defaultTunnels      = 100
	defaultWindow       = 256 << 10
	defaultPingInterval = 15 * time.Second
	defaultPingTimeout  = 5 * time.Second
	defaultSignTimeout  = time.Second
	defaultStarve       = 10 * time.Second
	defaultShareWait    = time.Second
	defaultIdleTimeout  = 55 * time.Second
	defaultStandbyRetry = time.Second
)

func (c *Config) setDefaults() {
	orDefault(&c.TLSTimeout, defaultTLSTimeout)
	orDefault(&c.MaxReplyHead, defaultReplyHead)
	orDefault(&c.MaxTunnelsPerConn, defaultTunnels)
	orDefault(&c.StreamWindow, defaultWindow)
	orDefault(&c.PingInterval, defaultPingInterval)
	orDefault(&c.PingTimeout, defaultPingTimeout)
	orDefault(&c.SignTimeout, defaultSignTimeout)
	orDefault(&c.StarveTimeout, defaultStarve)
	orDefault(&c.ShareWait, defaultShareWait)
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
		"ping timeout": c.PingTimeout, "sign timeout": c.SignTimeout, "starve timeout": c.StarveTimeout, "share wait": c.ShareWait, "idle timeout": c.IdleTimeout, "standby retry": c.StandbyRetry,
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
	if err := checkFields(c.Header); err != nil {
		return err
	}
	// Half is for the request itself.
	if n := fieldsSize(c.fields()); n > maxHead/2 {
		return fmt.Errorf("header fields of %d bytes, over %d", n, maxHead/2)
	}
	return nil
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
