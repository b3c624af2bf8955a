package dnscache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// TryTimeout is how long one DNS server may take for one query,
	// connecting included.
	TryTimeout = 2 * time.Second

	// rounds is how often each server is tried: a datagram may be lost.
	rounds = 2

	// maxUDP is the size of datagrams that are asked for: one that is not
	// fragmented (RFC 9715).
	maxUDP = 1232
)

// Client asks DNS servers, one after the other until one can tell. Where the
// first of them cannot be reached, the one that could tell is first from then on.
// A server that says that it cannot tell (SERVFAIL) may do so about one name only
// and stays first.
type Client struct {
	servers []*exchanger
	first   atomic.Int32
}

// exchanger sends a query to one server and returns what belongs to it.
type exchanger struct {
	Server
	exchange  func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
	closeIdle func()
	try       time.Duration // for one query: TryTimeout, but in tests
}

// Dial connects to a DNS server over the network `udp` or `tcp`.
type Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

func dialPlain(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, to.String())
}

// NewClient returns a backend that asks the servers, in that order. tlsConfig is
// for DoT and DoH, nil for the defaults; dial is how they are reached, nil for
// whatever way the system chooses.
func NewClient(servers []Server, tlsConfig *tls.Config, dial Dial) (*Client, error) {
	if len(servers) == 0 {
		return nil, errors.New("no DNS servers")
	}
	if tlsConfig == nil {
		tlsConfig = new(tls.Config)
	}
	if dial == nil {
		dial = dialPlain
	}
	c := new(Client)
	for _, s := range servers {
		e := &exchanger{Server: s, closeIdle: func() {}}
		switch s.Proto {
		case UDP:
			overTCP := newStreams(s, nil, dial)
			e.exchange, e.closeIdle = udpExchange(s, dial, overTCP), overTCP.closeIdle
		case TCP:
			conns := newStreams(s, nil, dial)
			e.exchange, e.closeIdle = conns.exchange, conns.closeIdle
		case DoT:
			conns := newStreams(s, tlsConfig, dial)
			e.exchange, e.closeIdle = conns.exchange, conns.closeIdle
		case DoH:
			e.exchange, e.closeIdle = newHTTPS(s, tlsConfig, dial)
		default:
			return nil, fmt.Errorf("unknown protocol %q", s.Proto)
		}
		e.try = TryTimeout
		c.servers = append(c.servers, e)
	}
	return c, nil
}

// CloseIdle closes connections to servers that wait for the next query.
func (c *Client) CloseIdle() {
	for _, s := range c.servers {
		s.closeIdle()
	}
}

// Lookup asks for the A or AAAA records of a name.
func (c *Client) Lookup(ctx context.Context, name string, f Family) (Reply, error) {
	var firstErr error
	first := int(c.first.Load())
	told := make([]bool, len(c.servers)) // that they cannot tell
	for i := range rounds * len(c.servers) {
		at := (first + i) % len(c.servers)
		if told[at] {
			continue
		}
		s := c.servers[at]
		msg, err := s.query(ctx, name, f)
		if err == nil {
			if at != first && !told[first] {
				c.first.CompareAndSwap(int32(first), int32(at))
			}
			return replyOf(msg, name, f), nil
		}
		if firstErr == nil {
			firstErr = fmt.Errorf("%s: %w", s, err)
		}
		_, told[at] = errors.AsType[*rcodeError](err)
		if ctx.Err() != nil {
			break
		}
	}
	return Reply{}, firstErr
}

// rcodeError is an answer that says that there is none.
type rcodeError struct{ rcode int }

func (e *rcodeError) Error() string { return "answered " + dns.RcodeToString[e.rcode] }

// query sends one query, and where the server does not know EDNS another one
// without (RFC 6891 §7).
func (s *exchanger) query(ctx context.Context, name string, f Family) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, s.try)
	defer cancel()
	msg, err := s.exchange(ctx, question(name, f, true))
	if err == nil && (msg.Rcode == dns.RcodeFormatError || msg.Rcode == dns.RcodeNotImplemented) {
		msg, err = s.exchange(ctx, question(name, f, false))
	}
	if err != nil {
		return nil, err
	}
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return nil, &rcodeError{msg.Rcode}
	}
	return msg, nil
}

// question is a query for the addresses of a name, with a random ID.
func question(name string, f Family, edns bool) *dns.Msg {
	q := new(dns.Msg)
	kind := dns.TypeA
	if f == IPv6 {
		kind = dns.TypeAAAA
	}
	q.SetQuestion(name+".", kind)
	if edns {
		q.SetEdns0(maxUDP, false)
	}
	return q
}
