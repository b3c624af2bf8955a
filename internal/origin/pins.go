package origin

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
)

// maxPinsPerClient bounds the origins that one connection of a client may have
// pinned connections to.
const maxPinsPerClient = 32

// Pins are the idle connections to origins that have authenticated themselves
// (NTLM, and Negotiate that may carry it; RFC 4559 §6). Each belongs to one
// connection of a client, and to the user that its requests name: a proxy in
// front of this one may carry several. It is taken by the next request of that
// client for the same origin, and closed when the client's connection closes,
// when it has been idle for too long, or when there are too many.
//
// Pinned connections keep their slots in the pool, so at most half of what a
// limit of the pool allows is pinned, and no more of them than a quarter of the file
// descriptors of the process.
type Pins struct {
	perOrigin int
	max       int
	idle      time.Duration

	n       atomic.Int64 // how many there are: most proxies never have one
	clients sync.Map     // the client connections that have some, for others to see it without the lock

	mu       sync.Mutex
	byClient map[net.Conn][]*pin // each in the order of their last use
	byOrigin map[Key]int         // how many there are
	oldest   *pin                // of all, in the same order: a ring
}

// pin is one idle connection. Whoever removes it from the table owns it.
type pin struct {
	client     net.Conn
	who        User
	origin     Key
	lease      *Lease
	timer      *time.Timer
	next, prev *pin
}

// NewPins sizes the table by the limits of the pool.
func NewPins(cfg connpool.Config) *Pins {
	half := func(idle, all int) int {
		if all > 0 {
			return min(idle, all/2)
		}
		return idle
	}
	most := half(cfg.MaxIdle, cfg.MaxConns)
	if n := descriptors.Limit(); n > 0 {
		most = min(most, n/descriptors.IdleShare)
	}
	return &Pins{
		perOrigin: half(cfg.MaxIdlePerKey, cfg.MaxConnsPerKey),
		max:       most,
		idle:      cfg.IdleTimeout,
		byClient:  make(map[net.Conn][]*pin),
		byOrigin:  make(map[Key]int),
	}
}

// Take removes the pin of a client for an origin, if there is one.
func (p *Pins) Take(client net.Conn, who User, origin Key) *Lease {
	if p.n.Load() == 0 {
		return nil
	}
	if _, ok := p.clients.Load(client); !ok {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.byClient[client] {
		if e.who == who && e.origin == origin {
			p.remove(e)
			return e.lease
		}
	}
	return nil
}

// Put pins a connection that is idle now. It reports false where there is no
// place for it. Others are closed to make room.
func (p *Pins) Put(client net.Conn, who User, origin Key, l *Lease, keep time.Duration) bool {
	idle := p.idle
	if keep > 0 {
		idle = min(idle, keep)
	}
	if p.perOrigin <= 0 || p.max <= 0 || idle <= 0 {
		return false
	}
	p.mu.Lock()
	evicted := p.makeRoom(client, who, origin)
	e := &pin{client: client, who: who, origin: origin, lease: l}
	e.timer = time.AfterFunc(idle, func() { p.expire(e) })
	p.insert(e)
	p.mu.Unlock()
	discard(evicted)
	return true
}

// makeRoom removes what is in the way of one more pin: one for the same, and the
// longest idle ones where a limit is reached. p.mu is held.
func (p *Pins) makeRoom(client net.Conn, who User, origin Key) (evicted []*pin) {
	evict := func(e *pin) {
		p.remove(e)
		evicted = append(evicted, e)
	}
	for _, e := range p.byClient[client] {
		if e.who == who && e.origin == origin {
			evict(e) // left by a request that ran beside this one; there should be none
			break
		}
	}
	if own := p.byClient[client]; len(own) >= maxPinsPerClient {
		evict(own[0])
	}
	if int(p.n.Load()) >= p.max {
		evict(p.oldest)
	}
	if p.byOrigin[origin] >= p.perOrigin {
		for e := range p.all() {
			if e.origin == origin {
				evict(e)
				break
			}
		}
	}
	return evicted
}

// all are the pins, the longest idle one first. p.mu is held.
func (p *Pins) all() func(yield func(*pin) bool) {
	return func(yield func(*pin) bool) {
		for e, n := p.oldest, p.n.Load(); n > 0; n-- {
			next := e.next
			if !yield(e) {
				return
			}
			e = next
		}
	}
}

// Most is how many pins there may be.
func (p *Pins) Most() int { return p.max }

// Any reports whether there is a pin at all.
func (p *Pins) Any() bool { return p.n.Load() > 0 }

// insert adds e as the one used last. p.mu is held.
func (p *Pins) insert(e *pin) {
	if p.oldest == nil {
		e.next, e.prev = e, e
		p.oldest = e
	} else {
		e.next, e.prev = p.oldest, p.oldest.prev
		e.prev.next, e.next.prev = e, e
	}
	p.byClient[e.client] = append(p.byClient[e.client], e)
	p.byOrigin[e.origin]++
	p.clients.Store(e.client, nil)
	p.n.Add(1)
}

// remove takes e out, if it is in. p.mu is held.
func (p *Pins) remove(e *pin) bool {
	if e.next == nil {
		return false
	}
	e.timer.Stop()
	e.prev.next, e.next.prev = e.next, e.prev
	switch {
	case e.next == e:
		p.oldest = nil
	case p.oldest == e:
		p.oldest = e.next
	}
	e.next, e.prev = nil, nil
	p.n.Add(-1)
	if p.byOrigin[e.origin]--; p.byOrigin[e.origin] == 0 {
		delete(p.byOrigin, e.origin)
	}
	own := p.byClient[e.client]
	for i := range own {
		if own[i] == e {
			own = append(own[:i:i], own[i+1:]...)
			break
		}
	}
	if p.byClient[e.client] = own; len(own) == 0 {
		delete(p.byClient, e.client)
		p.clients.Delete(e.client)
	}
	return true
}

// expire closes a pin that has been idle for long enough.
func (p *Pins) expire(e *pin) {
	p.mu.Lock()
	mine := p.remove(e)
	p.mu.Unlock()
	if mine {
		e.lease.Discard()
	}
}

// Drop closes the pins of a client's connection.
func (p *Pins) Drop(client net.Conn) {
	if p.n.Load() == 0 {
		return
	}
	p.mu.Lock()
	own := append([]*pin(nil), p.byClient[client]...)
	for _, e := range own {
		p.remove(e)
	}
	p.mu.Unlock()
	discard(own)
}

func discard(gone []*pin) {
	for _, e := range gone {
		e.lease.Discard()
	}
}

// User is who uses a client's connection: behind a trusted proxy it may be shared by
// several clients.
type User struct{ Name, IP string }
