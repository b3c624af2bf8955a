package dnscache

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// udpExchange sends queries as datagrams, each from a socket and so a port of its
// own. A datagram that is no answer to the query is dropped, and the answer is
// waited for: whoever can guess the port only must not be able to make it fail.
func udpExchange(s Server, dial Dial, overTCP *streams) func(context.Context, *dns.Msg) (*dns.Msg, error) {
	return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		raw, err := dialServer(ctx, s, "udp", dial)
		if err != nil {
			return nil, err
		}
		defer raw.Close()
		defer closeWith(ctx, raw)()
		conn := &dns.Conn{Conn: raw, UDPSize: maxUDP}
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
			case m.Truncated: // also where it is cut in the middle of a record
				return overTCP.exchange(ctx, q)
			case err != nil:
				continue
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
	dialAddr  Dial

	mu     sync.Mutex
	idle   []*stream
	closed bool
}

type stream struct {
	*dns.Conn
	timer *time.Timer
}

func newStreams(s Server, tlsConfig *tls.Config, dial Dial) *streams {
	out := &streams{server: s, dialAddr: dial}
	if tlsConfig != nil {
		out.tlsConfig = tlsConfig.Clone()
		out.tlsConfig.ServerName = s.ServerName
		out.tlsConfig.NextProtos = []string{"dot"}
		out.tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	return out
}

// exchange sends a query over a connection that waits for one, or a new one. A
// connection that waited may have been closed by the server meanwhile, so its
// failure is followed by a new one.
func (s *streams) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	for {
		st := s.take()
		fresh := st == nil
		if fresh {
			conn, err := s.dial(ctx)
			if err != nil {
				return nil, because(ctx, err)
			}
			st = &stream{Conn: &dns.Conn{Conn: conn}}
		}
		m, err := st.roundTrip(ctx, q)
		if err == nil {
			s.keep(st)
			return m, nil
		}
		_ = st.Close()
		if fresh || ctx.Err() != nil {
			return nil, because(ctx, err)
		}
	}
}

func (st *stream) roundTrip(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	stop := closeWith(ctx, st.Conn)
	if err := st.WriteMsg(q); err != nil {
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

func (s *streams) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, st := range s.idle {
		st.timer.Stop()
		_ = st.Close()
	}
	s.idle = nil
}

func (s *streams) dial(ctx context.Context) (net.Conn, error) {
	conn, err := dialServer(ctx, s.server, "tcp", s.dialAddr)
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

// dialServer connects to a DNS server. Where the configuration names it, the
// system tells its addresses, and they are tried in order.
func dialServer(ctx context.Context, s Server, network string, dial Dial) (net.Conn, error) {
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(s.Host); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", s.Host+"."); err != nil {
		return nil, err
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

// dnsMessage is the media type of RFC 8484 §6.
const dnsMessage = "application/dns-message"

// newHTTPS speaks DNS over HTTPS (RFC 8484), over HTTP/2 where the server does.
func newHTTPS(s Server, tlsConfig *tls.Config, dial Dial) (exchange func(context.Context, *dns.Msg) (*dns.Msg, error), closeIdle func()) {
	tlsConfig = tlsConfig.Clone()
	tlsConfig.ServerName = s.ServerName
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialServer(ctx, s, "tcp", dial)
		},
		TLSClientConfig:     tlsConfig,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		MaxIdleConnsPerHost: maxIdleStreams,
		IdleConnTimeout:     streamIdle,
	}
	exchange = func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		packed, err := q.Pack()
		if err != nil {
			return nil, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", dnsMessage)
		r.Header.Set("Accept", dnsMessage)
		r.Header.Set("User-Agent", "") // tells nothing that is needed
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return nil, because(ctx, err)
		}
		defer resp.Body.Close()
		return readHTTPS(resp, q)
	}
	return exchange, transport.CloseIdleConnections
}

func readHTTPS(resp *http.Response, q *dns.Msg) (*dns.Msg, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("HTTP status " + strconv.Itoa(resp.StatusCode))
	}
	if t := resp.Header.Get("Content-Type"); t != dnsMessage {
		return nil, fmt.Errorf("content type %q is not %s", t, dnsMessage)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize))
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(body); err != nil {
		return nil, fmt.Errorf("malformed answer: %w", err)
	}
	if !belongs(m, q) {
		return nil, errors.New("the answer is to another question")
	}
	return m, nil
}
