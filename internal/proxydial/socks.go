package proxydial

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/timing"
)

// Bytes of RFC 1928 and RFC 1929.
const (
	socksVersion        = 5
	socksConnect        = 1
	socksNoAuth         = 0
	socksUserPassword   = 2
	socksNoAcceptable   = 0xff
	socksAuthVersion    = 1
	socksIPv4           = 1
	socksName           = 3
	socksIPv6           = 4
	socksReplyHeadBytes = 4
)

// dialSOCKS asks for a tunnel with SOCKS5, on a connection of its own.
func (d *Dialer) dialSOCKS(ctx context.Context, to Target, client Client) (*Tunnel, error) {
	return d.talk(ctx, nil, client, StageNegotiate, func(conn net.Conn) (*Tunnel, error) {
		return d.socks(ctx, conn, to)
	})
}

// socks holds the conversation. It owns conn until it returns a Tunnel.
//
// Every message is read with its exact length: bytes behind the last one are the
// tunnel's, and stay in the socket.
func (d *Dialer) socks(ctx context.Context, conn net.Conn, to Target) (*Tunnel, error) {
	ctx, cancel := d.replyContext(ctx)
	defer cancel()
	g := watch(ctx, conn)
	s := socksTalk{conn: conn, cfg: &d.cfg, stage: StageNegotiate, clock: timing.Of(ctx)}
	err := s.greet()
	if err == nil {
		s.stage, s.sent = StageReply, true
		err = s.request(to)
	}
	if err = g.done(err); err != nil {
		_ = layers.Close(conn)
		return nil, &Error{Stage: s.stage, Err: err, Sent: s.sent}
	}
	return &Tunnel{Conn: conn, Protocol: "socks5"}, nil
}

type socksTalk struct {
	conn  net.Conn
	cfg   *Config
	stage Stage
	sent  bool
	clock *timing.Clock
}

// greet agrees on a method (RFC 1928 §3), and logs in where it is asked to.
func (s *socksTalk) greet() error {
	hello := []byte{socksVersion, 1, socksNoAuth}
	if s.cfg.Authenticate {
		hello = []byte{socksVersion, 2, socksNoAuth, socksUserPassword}
	}
	if _, err := s.conn.Write(hello); err != nil {
		return err
	}
	var choice [2]byte
	if _, err := io.ReadFull(s.conn, choice[:]); err != nil {
		return err
	}
	switch {
	case choice[0] != socksVersion:
		return malformed("SOCKS version %d", choice[0])
	case choice[1] == socksNoAuth:
		return nil
	case choice[1] == socksUserPassword && s.cfg.Authenticate:
		s.stage = StageLogin
		began := time.Now()
		err := s.logIn()
		s.clock.Since(timing.Login, began, err == nil)
		return err
	case choice[1] == socksNoAcceptable:
		s.stage = StageAuth
		return &SOCKSError{SOCKSNoMethod}
	}
	return malformed("SOCKS method %d, which was not offered", choice[1])
}

// logIn is RFC 1929.
func (s *socksTalk) logIn() error {
	m := []byte{socksAuthVersion, byte(len(s.cfg.User))}
	m = append(m, s.cfg.User...)
	m = append(m, byte(len(s.cfg.Password)))
	m = append(m, s.cfg.Password...)
	if _, err := s.conn.Write(m); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(s.conn, answer[:]); err != nil {
		return unexpectedEOF(err)
	}
	// Some proxies answer with the version of SOCKS: what counts is the status.
	if answer[0] != socksAuthVersion && answer[0] != socksVersion {
		return malformed("SOCKS login version %d", answer[0])
	}
	if answer[1] != 0 {
		s.stage = StageAuth
		return &SOCKSError{SOCKSBadCredentials}
	}
	return nil
}

// request asks for the destination and reads the reply (RFC 1928 §4, §6).
func (s *socksTalk) request(to Target) error {
	m := []byte{socksVersion, socksConnect, 0}
	m = appendSOCKSHost(m, to, s.cfg.Scheme)
	m = append(m, byte(to.Port>>8), byte(to.Port))
	if _, err := s.conn.Write(m); err != nil {
		return err
	}
	if to.Asked != nil {
		to.Asked()
	}
	return readSOCKSReply(s.conn)
}

func appendSOCKSHost(m []byte, to Target, scheme Scheme) []byte {
	addr := to.Addr
	if scheme == SOCKS5H {
		addr, _ = netip.ParseAddr(to.Host)
	}
	addr = addr.Unmap()
	switch {
	case addr.Is4():
		m = append(m, socksIPv4)
	case addr.Is6():
		m = append(m, socksIPv6)
	default:
		m = append(m, socksName, byte(len(to.Host)))
		return append(m, to.Host...)
	}
	return append(m, addr.AsSlice()...)
}

// readSOCKSReply reads a reply, and nothing behind it. The bound address in it is
// of no use.
func readSOCKSReply(r io.Reader) error {
	var head [socksReplyHeadBytes + 1]byte // and the first byte of the address
	// A refusal may come without an address: two bytes tell it.
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return err
	}
	if head[0] != socksVersion {
		return malformed("SOCKS version %d in a reply", head[0])
	}
	if head[1] != 0 {
		return &SOCKSError{SOCKSCode(head[1])}
	}
	if _, err := io.ReadFull(r, head[2:]); err != nil {
		return unexpectedEOF(err)
	}
	if head[2] != 0 {
		return malformed("SOCKS reserved byte %d", head[2])
	}
	left := 2 // the port
	switch head[3] {
	case socksIPv4:
		left += net.IPv4len - 1
	case socksIPv6:
		left += net.IPv6len - 1
	case socksName:
		left += int(head[4])
	default:
		return malformed("SOCKS address type %d", head[3])
	}
	var rest [255 + 2]byte
	_, err := io.ReadFull(r, rest[:left])
	return unexpectedEOF(err)
}

// unexpectedEOF is err, of the end of a connection that nobody expected yet.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
