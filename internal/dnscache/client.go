package dnscache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

	// maxDatagram is the size of datagrams that are read all the same: there are
	// servers that send more than they are asked for.
	maxDatagram = 4096
)

// Client asks DNS servers, one after the other until one can tell, in the order in
// which they were given. One that is down (see standing) comes after all others.
type Client struct {
	servers []*exchanger
}

// exchanger sends a query to one server and returns what belongs to it.
type exchanger struct {
	Server
	exchange  func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
	closeIdle func()
	try       time.Duration // for one query: TryTimeout, but in tests
	standing  standing
}

// Dial connects to a DNS server over the network `udp` or `tcp`.
type Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

func dialPlain(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, to.String())
}

// NewClient returns a backend that asks the servers, in that order. tlsConfig is
// for DoT and DoH, nil for the defaults; dial is how they are reached, nil for
// whatever way the system chooses; system tells the addresses of servers with a name.
func NewClient(servers []Server, tlsConfig *tls.Config, dial Dial, system System) (*Client, error) {
	if len(servers) == 0 {
		return nil, errors.New("no DNS servers")
	}
	if tlsConfig == nil {
		tlsConfig = new(tls.Config)
	}
	if dial == nil {
		dial = dialPlain
	}
	c, connect := new(Client), connector(dial, system)
	for _, s := range servers {
		e := &exchanger{Server: s, closeIdle: func() {}}
		switch s.Proto {
		case UDP:
			overTCP := newStreams(s, nil, connect)
			e.exchange, e.closeIdle = udpExchange(s, connect, overTCP), overTCP.closeIdle
		case TCP:
			conns := newStreams(s, nil, connect)
			e.exchange, e.closeIdle = conns.exchange, conns.closeIdle
		case DoT:
			conns := newStreams(s, tlsConfig, connect)
			e.exchange, e.closeIdle = conns.exchange, conns.closeIdle
		case DoH:
			h := newHTTPS(s, tlsConfig, connect)
			e.exchange, e.closeIdle = h.exchange, h.closeIdle
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
	order := c.order(name, f)
	told := make([]bool, len(order)) // that they cannot tell
	var missed []*exchanger          // those that gave no answer
	for i := range rounds * len(order) {
		at := i % len(order)
		if told[at] {
			continue
		}
		s := order[at]
		q := question(name, f)
		reply, err := s.ask(ctx, q, name, f)
		if err == nil {
			s.standing.told(known{q.Question[0].Name, q.Question[0].Qtype})
			s.outdoes(missed)
			return reply, nil
		}
		if firstErr == nil {
			firstErr = fmt.Errorf("%s: %w", s, err)
		}
		if ctx.Err() != nil {
			break
		}
		if _, told[at] = errors.AsType[refusal](err); told[at] {
			s.standing.answered()
		} else if s.missed(name, err) {
			missed = append(missed, s)
		}
	}
	return Reply{}, firstErr
}

// ask is what one server knows of a name.
func (s *exchanger) ask(ctx context.Context, q *dns.Msg, name string, f Family) (Reply, error) {
	msg, err := s.query(ctx, q)
	if err != nil {
		return Reply{}, err
	}
	reply := replyOf(msg, name, f)
	if len(reply.Addrs) == 0 {
		if why := saysNothing(msg); why != "" {
			return Reply{}, why
		}
	}
	return reply, nil
}

// order is the servers in the order in which they are asked now about a name.
func (c *Client) order(name string, f Family) []*exchanger {
	up := make([]*exchanger, 0, len(c.servers))
	var down []*exchanger
	for _, s := range c.servers {
		if s.isUp(name, f) {
			up = append(up, s)
		} else {
			down = append(down, s)
		}
	}
	return append(up, down...)
}

// refusal is an answer that says that there is none, or says nothing.
type refusal string

func (e refusal) Error() string { return "answered " + string(e) }

// query sends one query, and where the server does not know EDNS another one
// without (RFC 6891 §7).
func (s *exchanger) query(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, s.try)
	defer cancel()
	msg, err := s.exchange(ctx, q)
	if err == nil && (msg.Rcode == dns.RcodeFormatError || msg.Rcode == dns.RcodeNotImplemented) {
		msg, err = s.exchange(ctx, withoutEDNS(q))
	}
	if err != nil {
		return nil, err
	}
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return nil, refusal(dns.RcodeToString[msg.Rcode])
	}
	return msg, nil
}

// withoutEDNS is the same query in the words of RFC 1035, with an ID of its own.
func withoutEDNS(q *dns.Msg) *dns.Msg {
	plain := new(dns.Msg)
	plain.SetQuestion(q.Question[0].Name, q.Question[0].Qtype)
	return plain
}

// question is a query for the addresses of a name, with a random ID.
func question(name string, f Family) *dns.Msg {
	q := new(dns.Msg)
	kind := dns.TypeA
	if f == IPv6 {
		kind = dns.TypeAAAA
	}
	q.SetQuestion(name+".", kind)
	q.SetEdns0(maxUDP, false)
	return q
}
