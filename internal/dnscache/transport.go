package dnscache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// udpExchange sends queries as datagrams, each from a socket and so a port of its
// own. A datagram that is no answer to the query is dropped, and the answer is
// waited for: whoever can guess the port only must not be able to make it fail.
func udpExchange(s Server, dial connect, overTCP *streams) func(context.Context, *dns.Msg) (*dns.Msg, error) {
	return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		raw, err := dial(ctx, s, "udp")
		if err != nil {
			return nil, err
		}
		defer raw.Close()
		defer closeWith(ctx, raw)()
		conn := &dns.Conn{Conn: raw, UDPSize: maxDatagram}
		if err := conn.WriteMsg(q); err != nil {
			return nil, because(ctx, err)
		}
		for {
			m, err := conn.ReadMsg()
			switch {
			case err != nil && isNetError(err):
				return nil, because(ctx, err)
			case m == nil || !belongs(m, q):
				continue
			case m.Truncated || err != nil: // also where it is cut in the middle of a record
				return overTCP.exchange(ctx, q)
			}
			return m, nil
		}
	}
}

// isNetError tells what the socket reports from what is wrong with a datagram.
func isNetError(err error) bool {
	var ne net.Error
	return errors.As(err, &ne)
}

// closeWith closes a connection when ctx ends. The returned function ends that.
func closeWith(ctx context.Context, c io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.Close() })
}

// because returns why an exchange failed: the end of its context, which closes
// the connection, before what that looks like.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

const (
	// maxIdleStreams is how many connections to a server wait for a query.
	maxIdleStreams = 4

	// streamIdle is how long they wait.
	streamIdle = 10 * time.Second
)

// streams are connections to one server over TCP or TLS. Each carries one query
// at a time and is used again (RFC 7766 §6.2.1).
type streams struct {
	server    Server
	tlsConfig *tls.Config // nil: no TLS
	connect   connect

	mu     sync.Mutex
	idle   []*stream
	closed bool
}

type stream struct {
	*dns.Conn
	timer *time.Timer
	since time.Time // when it was last heard of
}

func newStreams(s Server, tlsConfig *tls.Config, dial connect) *streams {
	out := &streams{server: s, connect: dial}
	if tlsConfig != nil {
		out.tlsConfig = tlsConfig.Clone()
		out.tlsConfig.ServerName = s.ServerName
		out.tlsConfig.NextProtos = []string{"dot"}
		out.tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	return out
}

// exchange sends a query over a connection that waits for one, or a new one. A
// connection that waited may have been closed by the server meanwhile: its failure is
// followed by the next. Or it may be dead without anybody having been told: if it is
// silent for half of the time, the query is sent over a new one as well, and the first
// answer is taken. A slow answer is no dead connection.
func (s *streams) exchange(parent context.Context, q *dns.Msg) (*dns.Msg, error) {
	packed, err := q.Pack() // once: it writes to q
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(parent)
	defer cancel() // ends what is under way on the other connection
	begin := time.Now()
	patience := TryTimeout / 2
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline) / 2
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		st := s.take()
		if st == nil {
			m, err := s.askNew(ctx, q, packed)
			return m, s.failure(parent, begin, err)
		}
		old := make(chan streamReply, 1)
		go func() { old <- s.askOn(ctx, st, q, packed) }()
		select {
		case r := <-old:
			if r.err == nil || ctx.Err() != nil {
				return r.m, s.failure(parent, begin, r.err)
			}
		case <-timer.C:
			m, err := s.askBeside(ctx, begin, old, q, packed)
			return m, s.failure(parent, begin, err)
		}
	}
}

// streamReply is what came of a query on one connection.
type streamReply struct {
	m   *dns.Msg
	err error
}

// askBeside sends a query over a new connection while it waits on an old one.
func (s *streams) askBeside(ctx context.Context, begin time.Time, old <-chan streamReply, q *dns.Msg, packed []byte) (*dns.Msg, error) {
	fresh := make(chan streamReply, 1)
	go func() {
		m, err := s.askNew(ctx, q, packed)
		fresh <- streamReply{m, err}
	}()
	select {
	case r := <-old:
		if r.err != nil {
			r = <-fresh
		}
		return r.m, r.err
	case r := <-fresh:
		if r.err != nil {
			r = <-old
			return r.m, r.err
		}
		s.drop(begin) // as dead as the old one, which had more time
		return r.m, nil
	}
}

// failure is why an exchange failed, nil if it did not. If nothing was heard in all of
// its time, the connections that have waited as long are not used any more.
func (s *streams) failure(ctx context.Context, begin time.Time, err error) error {
	if err == nil {
		return nil
	}
	err = because(ctx, err)
	if errors.Is(err, context.DeadlineExceeded) {
		s.drop(begin)
	}
	return err
}

// askNew sends a query over a new connection.
func (s *streams) askNew(ctx context.Context, q *dns.Msg, packed []byte) (*dns.Msg, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	r := s.askOn(ctx, &stream{Conn: &dns.Conn{Conn: conn}}, q, packed)
	return r.m, r.err
}

// askOn sends a query over a connection, which it keeps for the next or closes.
func (s *streams) askOn(ctx context.Context, st *stream, q *dns.Msg, packed []byte) streamReply {
	m, err := st.roundTrip(ctx, q, packed)
	if err != nil {
		_ = rawOf(st.Conn.Conn).Close()
		return streamReply{err: err}
	}
	s.keep(st)
	return streamReply{m: m}
}

func (st *stream) roundTrip(ctx context.Context, q *dns.Msg, packed []byte) (*dns.Msg, error) {
	stop := closeWith(ctx, rawOf(st.Conn.Conn))
	defer stop()
	if _, err := st.Write(packed); err != nil {
		return nil, err
	}
	m, err := st.ReadMsg()
	if err != nil {
		return nil, err
	}
	if !belongs(m, q) {
		return nil, errors.New("the answer is to another question")
	}
	if !stop() {
		return nil, ctx.Err() // being closed
	}
	return m, nil
}

// rawOf is the connection below TLS. Closing it says nothing to the other side, which
// may be dead, and waits for nothing.
func rawOf(conn net.Conn) net.Conn {
	if tc, ok := conn.(*tls.Conn); ok {
		return tc.NetConn()
	}
	return conn
}

func (s *streams) take() *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	st := s.idle[n-1]
	s.idle = s.idle[:n-1]
	st.timer.Stop()
	return st
}

func (s *streams) keep(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle) >= maxIdleStreams {
		_ = st.Close()
		return
	}
	st.since = time.Now()
	s.idle = append(s.idle, st)
	st.timer = time.AfterFunc(streamIdle, func() { s.expire(st) })
}

// expire closes a connection that has waited too long, if it still waits.
func (s *streams) expire(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.idle {
		if other == st {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			_ = st.Close()
			return
		}
	}
}

// drop closes the idle connections of which nothing was heard since a time.
func (s *streams) drop(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = slices.DeleteFunc(s.idle, func(st *stream) bool {
		dead := st.since.Before(since)
		if dead {
			st.timer.Stop()
			_ = rawOf(st.Conn.Conn).Close()
		}
		return dead
	})
}

func (s *streams) closeIdle() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.drop(time.Now().Add(time.Second)) // all
}

func (s *streams) dial(ctx context.Context) (net.Conn, error) {
	conn, err := s.connect(ctx, s.server, "tcp")
	if err != nil || s.tlsConfig == nil {
		return conn, err
	}
	tc := tls.Client(conn, s.tlsConfig)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return tc, nil
}

// connect connects to a DNS server, over the network `udp` or `tcp`.
type connect func(ctx context.Context, s Server, network string) (net.Conn, error)

// connector connects with dial. Where the configuration names the server, the system
// tells its addresses, and they are tried in order.
func connector(dial Dial, system System) connect {
	listed := newHosts(nil, system.HostsFile)
	return func(ctx context.Context, s Server, network string) (net.Conn, error) {
		addrs, err := serverAddrs(ctx, s.Host, listed, system)
		if err != nil {
			return nil, &hostError{err}
		}
		var firstErr error
		for _, a := range addrs {
			conn, err := dial(ctx, network, netip.AddrPortFrom(a, s.Port))
			if err == nil {
				return conn, nil
			}
			if firstErr == nil {
				firstErr = err
			}
		}
		return nil, firstErr
	}
}

// serverAddrs are the addresses of a DNS server, as the hosts file or the system knows them.
func serverAddrs(ctx context.Context, host string, listed *hosts, system System) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if err := listed.ready(ctx); err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for f := range families {
		known, _ := listed.lookup(strings.ToLower(strings.TrimSuffix(host, ".")), f, time.Now())
		addrs = append(addrs, known.Addrs...)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return system.lookup(ctx, "ip", host)
}

// hostError is why the addresses of a DNS server are not known. That its own name does not
// exist says nothing about the name that it was to be asked for, so there is no
// *net.DNSError to be found in it.
type hostError struct{ err error }

func (e *hostError) Error() string { return e.err.Error() }

func (e *hostError) Unwrap() error {
	if d, ok := errors.AsType[*net.DNSError](e.err); ok {
		return d.UnwrapErr
	}
	return e.err
}

// Timeout implements net.Error.
func (e *hostError) Timeout() bool {
	ne, ok := errors.AsType[net.Error](e.err)
	return ok && ne.Timeout()
}

// Temporary implements net.Error.
func (e *hostError) Temporary() bool { return true }

// Interface guards
var _ net.Error = (*hostError)(nil)
