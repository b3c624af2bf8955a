package faultnet

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards TCP connections to a target and spoils them on the way.
type Proxy struct {
	// Addr is where it listens, as host:port.
	Addr string

	ln     net.Listener
	target string
	script func(conn int) Script
	done   chan struct{} // closed by Close
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	links  []*link
}

// Start listens on a free port of 127.0.0.1 and forwards what it accepts to
// target, each connection by the script that script returns for its number,
// from 0. A nil script spoils nothing.
func Start(target string, script func(conn int) Script) (*Proxy, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return Serve(ln, target, script), nil
}

// Serve is Start on a listener of the caller's, which must be one of TCP. It is
// the proxy's from here on.
func Serve(ln net.Listener, target string, script func(conn int) Script) *Proxy {
	if script == nil {
		script = func(int) Script { return Script{} }
	}
	p := &Proxy{Addr: ln.Addr().String(), ln: ln, target: target, script: script, done: make(chan struct{})}
	p.wg.Go(p.accept)
	return p
}

// Always is a script for every connection. Each gets a seed of its own, made of
// the script's and its number.
func Always(s Script) func(conn int) Script {
	return func(conn int) Script {
		out := s
		out.Seed += uint64(conn) * 0x9e3779b97f4a7c15
		return out
	}
}

// Close resets every connection and waits until nothing of the proxy is left.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.done)
	links := p.links
	p.mu.Unlock()
	err := p.ln.Close()
	for _, l := range links {
		l.reset()
	}
	p.wg.Wait()
	return err
}

// Counts is how many bytes of each end a connection has let through so far,
// without garbage. For a number that no connection has, both are 0.
func (p *Proxy) Counts(conn int) (up, down int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn < 0 || conn >= len(p.links) {
		return 0, 0
	}
	return p.links[conn].up.Load(), p.links[conn].down.Load()
}

// Conns is how many connections were accepted.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		client, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			continue
		}
		l := &link{p: p, client: client, done: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = c.Close()
			return
		}
		l.number = len(p.links)
		p.links = append(p.links, l)
		p.mu.Unlock()
		p.wg.Go(l.serve)
	}
}

// link is one forwarded connection.
type link struct {
	p        *Proxy
	number   int
	client   *net.TCPConn
	up, down atomic.Int64
	done     chan struct{} // closed by reset
	failed   atomic.Bool   // a write found its destination gone
	ended    atomic.Bool   // a direction has come to its orderly end

	mu     sync.Mutex
	broken bool
	target *net.TCPConn
}

func (l *link) serve() {
	c, err := net.Dial("tcp", l.p.target)
	if err != nil {
		l.reset()
		return
	}
	target := c.(*net.TCPConn)
	l.mu.Lock()
	l.target = target
	broken := l.broken
	l.mu.Unlock()
	if broken {
		abort(target)
		return
	}
	script := l.p.script(l.number)
	var wg sync.WaitGroup
	wg.Go(func() { l.pump(script, true) })
	l.pump(script, false)
	wg.Wait()
	if l.failed.Load() {
		l.reset()
		return
	}
	_ = target.Close()
	_ = l.client.Close()
}

// pump moves the bytes of one direction.
func (l *link) pump(script Script, up bool) {
	d := pump{link: l, flow: newFlow(script.Down, script.Seed, up), src: l.target, dst: l.client, count: &l.down, up: up, notify: script.Notify}
	if up {
		d.flow = newFlow(script.Up, script.Seed, up)
		d.src, d.dst, d.count = l.client, l.target, &l.up
	}
	d.run()
}

// reset breaks the connection towards both ends.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return
	}
	l.broken = true
	abort(l.client)
	if l.target != nil {
		abort(l.target)
	}
	close(l.done) // last: who waits for it closes the sockets in an orderly way
}

// abort closes a socket so that its peer sees a reset.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// pump is one direction of a link.
type pump struct {
	*link
	flow     *flow
	src, dst *net.TCPConn
	count    *atomic.Int64
	up       bool
	notify   func(Event)
}

func (d *pump) run() {
	buf := make([]byte, maxPiece)
	for {
		for {
			fault, ok := d.flow.due()
			if !ok {
				break
			}
			if !d.strike(fault) {
				return
			}
		}
		n, err := d.src.Read(buf[:d.flow.room()])
		if n > 0 {
			if !d.pause(d.flow.delay()) {
				return
			}
			if _, werr := d.dst.Write(buf[:n]); werr != nil {
				d.writeFailed()
				return
			}
			d.flow.advance(n)
			d.count.Add(int64(n))
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			d.sourceEnded()
			return
		default:
			d.reset()
			return
		}
	}
}

// writeFailed is called when the destination is gone. What that sent before may
// still be on its way through the opposite direction, which breaks the connection
// when it comes to the end.
func (d *pump) writeFailed() {
	d.failed.Store(true)
	if d.ended.Load() {
		d.reset()
	}
}

// sourceEnded passes an orderly end on.
func (d *pump) sourceEnded() {
	if d.failed.Load() {
		d.reset() // the end hides the reset that a write has seen
		return
	}
	_ = d.dst.CloseWrite()
	d.ended.Store(true)
}

// strike lets a fault happen and tells whether the direction goes on.
func (d *pump) strike(fault Fault) (alive bool) {
	switch fault.Kind {
	case KindGarbage:
		_, err := d.dst.Write(d.flow.garbage(fault))
		alive = err == nil
	case KindReset:
		d.drain(d.dst)
		d.reset()
	case KindTruncate:
		_ = d.dst.CloseWrite()
		_ = d.src.Close()
	case KindHalfClose:
		_ = d.dst.CloseWrite()
	}
	if d.notify != nil {
		d.notify(Event{Conn: d.number, Up: d.up, Fault: fault})
	}
	switch fault.Kind {
	case KindHalfClose:
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{d.src})
	case KindBlackHole:
		<-d.done
	}
	return alive
}

// drain waits until a socket has delivered what was written to it, since a reset
// takes away what it still holds; a receiver that does not read, for a second at
// most.
func (d *pump) drain(c *net.TCPConn) {
	for range 1000 {
		if unsent(c) == 0 || !d.pause(time.Millisecond) {
			return
		}
	}
}

// pause waits, and tells whether the connection is still there then.
func (d *pump) pause(t time.Duration) bool {
	if t == 0 {
		return true
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.done:
		return false
	}
}
