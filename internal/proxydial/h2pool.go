package proxydial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// maxDials is how many connections are dialed at once for tunnels that wait.
	maxDials = 8
	// maxReplays is how often a CONNECT is sent again that the proxy has not
	// looked at.
	maxReplays = 2
)

// pool holds the HTTP/2 connections to the proxy, and decides when another one
// is needed.
//
// Lock order: pool.mu, h2Conn.mu, pool.changes.
type pool struct {
	dialer *Dialer
	fields []hpack.HeaderField // of every CONNECT

	mu      sync.Mutex
	conns   []*h2Conn
	closed  bool
	h1      bool // the last handshake chose HTTP/1.1
	dialing int  // callers that dial
	guess   int  // tunnels the next connection is expected to take

	retired atomic.Bool  // connections end with their last tunnel
	asking  atomic.Int32 // callers without a slot, those that dial included
	changes sync.Mutex
	change  chan struct{} // closed when a slot, or the right to dial, may be had
}

func newPool(d *Dialer) *pool {
	p := &pool{dialer: d, guess: d.cfg.MaxTunnelsPerConn, change: make(chan struct{})}
	for _, f := range d.cfg.fields() {
		name := strings.ToLower(f.Name)
		p.fields = append(p.fields, hpack.HeaderField{
			Name: name, Value: f.Value, Sensitive: name == "proxy-authorization",
		})
	}
	return p
}

// dialNegotiated asks for a tunnel with the protocol that the proxy chooses by
// ALPN.
func (d *Dialer) dialNegotiated(ctx context.Context, req request) (*Tunnel, error) {
	for replays := 0; ; replays++ {
		got, err := d.pool.get(ctx)
		if err != nil {
			return nil, err
		}
		if got.h1 {
			if got.nc == nil {
				return d.dialHTTP1(ctx, req, Client{})
			}
			return d.connect(ctx, got.nc, req)
		}
		t, err := d.tunnelOn(ctx, got, req)
		if err == nil {
			t.Reused = got.reused
			return t, nil
		}
		if replays == maxReplays || ctx.Err() != nil || !replayable(err, got) {
			return nil, err
		}
	}
}

// replayable reports whether a CONNECT may be sent again at once: the proxy has
// promised not to have looked at it, or the connection had stood for a while and
// died, which says nothing about the proxy as it is now.
func replayable(err error, got offer) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Retryable || got.reused && e.lost)
}

// tunnelOn asks for a tunnel in a slot that was reserved.
func (d *Dialer) tunnelOn(ctx context.Context, got offer, req request) (*Tunnel, error) {
	ctx, cancel := d.replyContext(ctx)
	defer cancel()
	c := got.c
	s, err := c.open(req, got.reused)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.replied:
	case <-ctx.Done():
		s.Abort()
		return nil, &Error{Stage: StageReply, Err: ctx.Err(), Sent: true}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.reply.Status >= 200 && s.reply.Status <= 299 {
		return &Tunnel{Conn: s, Reply: s.reply, Protocol: http2.NextProtoTLS}, nil
	}
	e := &Error{Stage: StageReply, Err: s.err, Sent: !s.retryable, Retryable: s.retryable, lost: s.lost}
	if r, ok := errors.AsType[*ReplyError](s.err); ok {
		e.Stage = r.stage()
	}
	return nil, e
}

// offer is what a tunnel may begin on.
type offer struct {
	c      *h2Conn  // with a slot reserved
	reused bool     // c stood before
	h1     bool     // the proxy speaks HTTP/1.1 …
	nc     net.Conn // … on this new connection, if any
}

// get returns a slot on an HTTP/2 connection, or the word that there is none to
// be had. Where all are taken, some of those who ask dial, one for as many
// tunnels as a connection is expected to take; the others wait for what comes
// first. Who dials gets the error of that dial; the others go on.
func (p *pool) get(ctx context.Context) (offer, error) {
	p.asking.Add(1) // before the look: wake counts on it
	for {
		changed := p.watch() // before the look, so that no change is missed
		c, next := p.look()
		switch next {
		case slotTaken:
			return offer{c: c, reused: true}, nil
		case dialH2:
			return p.dial(ctx, true)
		case dialH1:
			if p.dialer.standby.count() > 0 {
				return offer{h1: true}, nil
			}
			return p.dial(ctx, false)
		case poolClosed:
			return offer{}, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			p.asking.Add(-1)
			return offer{}, &Error{Stage: StageDial, Err: ctx.Err()}
		}
	}
}

// step is what somebody who asks for a slot does next.
type step uint8

const (
	wait step = iota
	slotTaken
	dialH2 // in a turn that is counted in dialing
	dialH1 // nobody waits for anybody
	poolClosed
)

// look decides in one critical section. Who is told to do anything but wait or
// dialH2 is no longer counted as asking.
func (p *pool) look() (*h2Conn, step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.asking.Add(-1)
		return nil, poolClosed
	}
	if c := p.reserve(); c != nil {
		p.asking.Add(-1)
		p.dialer.standby.poke() // it may have been the last slot
		return c, slotTaken
	}
	if p.h1 {
		p.asking.Add(-1)
		return nil, dialH1
	}
	if p.dialing < p.wanted() {
		p.dialing++
		return nil, dialH2
	}
	return nil, wait
}

// wanted is how many dials those who ask are worth. It is called with p.mu held.
func (p *pool) wanted() int {
	return min((int(p.asking.Load())+p.guess-1)/p.guess, maxDials)
}

// reserve takes a slot on the oldest connection that has one, so that the young
// ones may go idle. It is called with p.mu held.
func (p *pool) reserve() *h2Conn {
	for _, c := range p.conns {
		if c.reserve() {
			return c
		}
	}
	return nil
}

// dial makes a connection for somebody who asks. A proxy that spoke HTTP/1.1 the
// last time may have learned HTTP/2 since, and the other way round.
func (p *pool) dial(ctx context.Context, counted bool) (offer, error) {
	c, nc, err := p.open(ctx)
	defer p.wake()
	p.mu.Lock()
	defer p.mu.Unlock()
	if counted {
		// Together with what becomes of the connection: who looks in between
		// would dial once too often.
		p.dialing--
		p.asking.Add(-1)
	}
	switch {
	case err != nil:
		p.guess = 1 // let the others try for themselves
		return offer{}, err
	case c == nil:
		return offer{h1: true, nc: nc}, nil
	case !c.reserve():
		c.drain()
		return offer{}, &Error{Stage: StageNegotiate, Err: errNoCapacity, Retryable: true}
	}
	p.addLocked(c)
	return offer{c: c}, nil
}

// open dials and finds out what the proxy speaks.
func (p *pool) open(ctx context.Context) (*h2Conn, net.Conn, error) {
	nc, err := p.dialer.open(ctx, p.dialer.tlsBoth, Client{})
	if err != nil {
		return nil, nil, err
	}
	h2 := nc.(*tls.Conn).ConnectionState().NegotiatedProtocol == http2.NextProtoTLS
	p.mu.Lock()
	p.h1 = !h2
	p.mu.Unlock()
	if !h2 {
		return nil, nc, nil
	}
	settle, cancel := context.WithTimeout(ctx, p.dialer.cfg.TLSTimeout)
	defer cancel()
	c, err := newH2Conn(settle, nc, p)
	if err != nil {
		return nil, nil, &Error{Stage: StageNegotiate, Err: err}
	}
	return c, nil, nil
}

// add makes a connection known to all.
func (p *pool) add(c *h2Conn) {
	p.mu.Lock()
	p.addLocked(c)
	p.mu.Unlock()
	p.wake()
}

func (p *pool) addLocked(c *h2Conn) {
	p.guess = max(c.capacity(), 1)
	if p.closed {
		c.drain() // with the tunnel that has a slot already
	}
	if c.added() {
		p.conns = append(p.conns, c)
	}
}

// remove forgets a connection that has ended.
func (p *pool) remove(c *h2Conn) {
	p.mu.Lock()
	p.conns = slices.DeleteFunc(p.conns, func(o *h2Conn) bool { return o == c })
	p.mu.Unlock()
	p.wake()
}

// close ends what is idle and lets nothing begin.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
	p.wake()
}

// watch returns what the next change closes.
func (p *pool) watch() <-chan struct{} {
	p.changes.Lock()
	defer p.changes.Unlock()
	return p.change
}

// wake lets those who wait look again. It may be called with h2Conn.mu held.
func (p *pool) wake() {
	if p.asking.Load() > 0 {
		p.changes.Lock()
		close(p.change)
		p.change = make(chan struct{})
		p.changes.Unlock()
	}
	p.dialer.standby.poke()
}

// count returns the open connections and the tunnels on them.
func (p *pool) count() (conns, streams int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		streams += c.load()
	}
	return len(p.conns), streams
}

// spare counts the connections with room for another tunnel.
func (p *pool) spare() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if free, usable := c.room(); usable && free > 0 {
			n++
		}
	}
	return n
}
