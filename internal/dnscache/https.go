package dnscache

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/miekg/dns"
)

// dnsMessage is the media type of RFC 8484 §6.
const dnsMessage = "application/dns-message"

// An HTTP/2 connection that is silent for pingAfter is pinged, and closed if that brings
// nothing in pingTimeout: early enough for a question to be sent again in its time.
const (
	pingAfter   = TryTimeout / 4
	pingTimeout = TryTimeout / 2
)

// maxHTTPSConns is how many connections to one server there are: where it does not
// speak HTTP/2, each carries one query at a time.
const maxHTTPSConns = 256

// maxHTTPSHead bounds the head of an answer.
const maxHTTPSHead = 64 << 10

// https speaks DNS over HTTPS (RFC 8484), over HTTP/2 where the server does.
type https struct {
	url       string
	transport *http.Transport
}

func newHTTPS(s Server, tlsConfig *tls.Config, dial connect) *https {
	tlsConfig = tlsConfig.Clone()
	tlsConfig.ServerName = s.ServerName
	tlsConfig.NextProtos = []string{"h2", "http/1.1"}
	return &https{s.URL, &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialHTTPS(askedIn(ctx), s, tlsConfig, dial)
		},
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxConnsPerHost:        maxHTTPSConns,
		MaxResponseHeaderBytes: maxHTTPSHead,
		MaxIdleConnsPerHost:    maxIdleStreams,
		IdleConnTimeout:        streamIdle,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}}
}

func dialHTTPS(ctx context.Context, s Server, tlsConfig *tls.Config, dial connect) (net.Conn, error) {
	conn, err := dial(ctx, s, "tcp")
	if err != nil {
		return nil, err
	}
	tc := tls.Client(&heardConn{Conn: conn}, tlsConfig)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return tc, nil
}

// askedKey is the key of the context of the query that a connection is dialed for.
// http.Transport detaches its dials from the requests, which would leave a connection
// behind for each query to a server that accepts connections and says nothing.
type askedKey struct{}

// dialingFor returns ctx so that dials for it end with it: when its time is over, or when
// the query was answered on another connection.
func dialingFor(ctx context.Context) context.Context {
	return context.WithValue(ctx, askedKey{}, ctx)
}

func askedIn(ctx context.Context) context.Context {
	if asked, ok := ctx.Value(askedKey{}).(context.Context); ok {
		return asked
	}
	return ctx
}

func (h *https) closeIdle() { h.transport.CloseIdleConnections() }

// exchange sends a query. Connections that stood already may be dead: where one fails,
// the query is sent again. One on which nothing is heard until the end is closed, or
// all further queries would be sent on it.
func (h *https) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = dialingFor(ctx)
	for left := maxIdleStreams; ; left-- {
		var used usedConn
		m, err := h.send(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: used.got}), packed, q)
		switch {
		case err == nil:
			return m, nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			if used.closeIfSilent() {
				h.closeIdle() // they have been silent for as long
			}
		case ctx.Err() == nil && left > 0 && used.reused.Load() && !isAnswer(err):
			continue
		}
		return nil, because(ctx, err)
	}
}

func (h *https) send(ctx context.Context, packed []byte, q *dns.Msg) (*dns.Msg, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", dnsMessage)
	r.Header.Set("Accept", dnsMessage)
	r.Header.Set("User-Agent", "") // tells nothing that is needed
	resp, err := h.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readHTTPS(resp, q)
}

// httpAnswerError is what is wrong with an answer that has come.
type httpAnswerError string

func (e httpAnswerError) Error() string { return string(e) }

func isAnswer(err error) bool {
	_, ok := errors.AsType[httpAnswerError](err)
	return ok
}

func readHTTPS(resp *http.Response, q *dns.Msg) (*dns.Msg, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, httpAnswerError("HTTP status " + strconv.Itoa(resp.StatusCode))
	}
	t := resp.Header.Get("Content-Type")
	if kind, _, err := mime.ParseMediaType(t); err != nil || kind != dnsMessage {
		return nil, httpAnswerError(fmt.Sprintf("content type %q is not %s", t, dnsMessage))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize))
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(body); err != nil {
		return nil, httpAnswerError("malformed answer: " + err.Error())
	}
	if !belongs(m, q) {
		return nil, httpAnswerError("the answer is to another question")
	}
	if age, err := strconv.ParseUint(resp.Header.Get("Age"), 10, 32); err == nil {
		grow(m, uint32(age))
	}
	return m, nil
}

// grow makes an answer older that a cache has held back: its times to live are those at
// the origin (RFC 8484 §5.1).
func grow(m *dns.Msg, age uint32) {
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		h := rr.Header()
		h.Ttl -= min(age, h.Ttl)
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Minttl -= min(age, soa.Minttl)
		}
	}
}

// heardConn counts reads that brought something.
type heardConn struct {
	net.Conn
	heard atomic.Uint64
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Add(1)
	}
	return n, err
}

// usedConn is the connection that a query is sent on.
type usedConn struct {
	conn   atomic.Pointer[heardConn]
	heard  atomic.Uint64 // of it, before
	reused atomic.Bool
}

func (u *usedConn) got(info httptrace.GotConnInfo) {
	u.reused.Store(info.Reused)
	if tc, ok := info.Conn.(*tls.Conn); ok {
		if c, ok := tc.NetConn().(*heardConn); ok {
			u.heard.Store(c.heard.Load())
			u.conn.Store(c)
		}
	}
}

// closeIfSilent closes the connection if nothing came on it since the query was sent.
// Where something did, answers to pings included, the connection is well, and only the
// answer about one name is missing.
func (u *usedConn) closeIfSilent() bool {
	c := u.conn.Load()
	if c == nil || c.heard.Load() != u.heard.Load() {
		return false
	}
	_ = c.Close()
	return true
}
