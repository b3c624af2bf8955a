package faultnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// Conn is a connection that a Script spoils. What its user writes goes through
// one direction of the script, what it reads through the other.
//
// It differs from a Proxy in this: the peer's bytes that are lost are never read,
// so that the peer may come to stand still; what its user writes into a black
// hole, or behind a half-close, is taken and vanishes; and Close reaches the peer
// always.
type Conn struct {
	net.Conn
	number int
	script Script
	client bool

	in, out half

	once sync.Once
	done chan struct{} // closed by Close
}

// half is one direction of a Conn.
type half struct {
	up       bool
	deadline deadline
	end      atomic.Uint32 // Kind of the fault that ended it, or 0

	mu      sync.Mutex // held by Read, or by Write
	flow    *flow
	pending []byte // read, or made up, but not delivered yet
}

// Client wraps the end of a connection that dialed.
func Client(c net.Conn, s Script) *Conn { return newConn(c, s, true, 0) }

func newConn(c net.Conn, s Script, client bool, number int) *Conn {
	f := &Conn{Conn: c, number: number, script: s, client: client, done: make(chan struct{})}
	up, down := newFlow(s.Up, s.Seed, true), newFlow(s.Down, s.Seed, false)
	f.out.up = client
	f.in.up = !client
	f.out.flow, f.in.flow = up, down
	if !client {
		f.out.flow, f.in.flow = down, up
	}
	return f
}

// Listener wraps what a listener accepts by the script that script returns for
// its number, from 0.
func Listener(ln net.Listener, script func(conn int) Script) net.Listener {
	return &listener{Listener: ln, script: script}
}

type listener struct {
	net.Listener
	script   func(conn int) Script
	accepted atomic.Int64
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := int(l.accepted.Add(1) - 1)
	return newConn(c, l.script(n), false, n), nil
}

// Read reads what the script lets through.
func (c *Conn) Read(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n := copy(p, c.in.pending); n > 0 {
			c.in.pending = c.in.pending[n:]
			return n, nil
		}
		if err := c.ended(&c.in); err != nil {
			return 0, err
		}
		if fault, ok := c.in.flow.due(); ok {
			if fault.Kind == KindGarbage {
				c.in.pending = c.in.flow.garbage(fault)
				c.tell(&c.in, fault)
			} else {
				c.strike(&c.in, fault)
			}
			continue
		}
		n, err := c.Conn.Read(p[:min(len(p), c.in.flow.room())])
		if n == 0 {
			return 0, c.readError(err)
		}
		c.in.flow.advance(n)
		if perr := c.pause(&c.in, c.in.flow.delay()); perr != nil {
			c.in.pending = append([]byte(nil), p[:n]...) // for the next Read
			return 0, perr
		}
		return n, err
	}
}

// readError is what a failed read looks like when a fault has struck meanwhile.
func (c *Conn) readError(err error) error {
	if ended := c.ended(&c.in); ended != nil {
		return ended
	}
	return err
}

// Write writes what the script lets through, and takes the rest as well.
func (c *Conn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for done := 0; ; {
		if Kind(c.out.end.Load()) != 0 {
			if err := c.ended(&c.out); err != nil {
				return done, err
			}
			return len(p), nil // swallowed
		}
		if fault, ok := c.out.flow.due(); ok {
			if fault.Kind == KindGarbage {
				if _, err := c.Conn.Write(c.out.flow.garbage(fault)); err != nil {
					return done, err
				}
				c.tell(&c.out, fault)
			} else {
				c.strike(&c.out, fault)
			}
			continue
		}
		if done == len(p) {
			return done, nil
		}
		piece := p[done:min(len(p), done+c.out.flow.room())]
		if err := c.pause(&c.out, c.out.flow.delay()); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(piece)
		done += n
		c.out.flow.advance(n)
		if err != nil {
			return done, err
		}
	}
}

// ended is what the user of a direction sees after a fault ended it; nil while
// none did, or if nothing is to be seen. A read of a black hole waits.
func (c *Conn) ended(h *half) error {
	op, reading := "write", h == &c.in
	if reading {
		op = "read"
	}
	switch Kind(h.end.Load()) {
	case KindReset:
		return c.opError(op, os.NewSyscallError(op, syscall.ECONNRESET))
	case KindTruncate:
		if reading {
			return io.EOF
		}
		return c.opError(op, os.NewSyscallError(op, syscall.EPIPE))
	case KindHalfClose:
		if reading {
			return io.EOF
		}
	case KindBlackHole:
		if reading {
			return c.pause(h, -1)
		}
	}
	return nil
}

// strike lets a fault other than garbage happen.
func (c *Conn) strike(h *half, fault Fault) {
	other := &c.in
	if h == &c.in {
		other = &c.out
	}
	h.end.Store(uint32(fault.Kind))
	switch fault.Kind {
	case KindReset:
		other.end.Store(uint32(KindReset))
		c.breakInner(h == &c.out)
	case KindTruncate:
		if h == &c.in { // the peer finds us gone, and what we write is lost
			other.end.Store(uint32(KindBlackHole))
			_ = c.Conn.Close()
		} else { // we find the peer gone
			other.end.Store(uint32(KindTruncate))
			c.closeWriteInner()
		}
	case KindHalfClose:
		if h == &c.out {
			c.closeWriteInner()
		}
	}
	c.tell(h, fault)
}

func (c *Conn) tell(h *half, fault Fault) {
	if c.script.Notify != nil {
		c.script.Notify(Event{Conn: c.number, Up: h.up, Fault: fault})
	}
}

// breakInner resets the connection below, or closes it if it is no socket.
func (c *Conn) breakInner(drain bool) {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		_ = c.Conn.Close()
		return
	}
	for i := 0; drain && i < 1000 && unsent(tcp) > 0; i++ {
		if c.pause(&c.out, time.Millisecond) != nil {
			break
		}
	}
	abort(tcp)
}

func (c *Conn) closeWriteInner() {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
		return
	}
	_ = c.Conn.Close()
}

// CloseWrite ends the direction towards the peer, where the connection below can
// do that and the script has not made the direction end or vanish before.
func (c *Conn) CloseWrite() error {
	cw, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return c.opError("close", errors.ErrUnsupported)
	}
	if Kind(c.out.end.Load()) != 0 {
		return c.ended(&c.out)
	}
	return cw.CloseWrite()
}

// Close closes the connection and frees who waits in it.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.in.deadline.set(time.Time{})
		c.out.deadline.set(time.Time{})
	})
	err := c.Conn.Close()
	if errors.Is(err, net.ErrClosed) && (c.in.end.Load() != 0 || c.out.end.Load() != 0) {
		return nil // a fault was faster
	}
	return err
}

// SetDeadline is net.Conn's, for what the script holds back too.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is net.Conn's, for what the script holds back too.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.deadline.set(t)
	return c.unlessStruck(&c.in, c.Conn.SetReadDeadline(t))
}

// SetWriteDeadline is net.Conn's, for what the script holds back too.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.deadline.set(t)
	return c.unlessStruck(&c.out, c.Conn.SetWriteDeadline(t))
}

// unlessStruck hides the error of a connection below that a fault has closed.
func (c *Conn) unlessStruck(h *half, err error) error {
	if h.end.Load() != 0 {
		return nil
	}
	return err
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// pause waits for d, or for ever if d is negative, unless the connection is
// closed or the direction's deadline passes.
func (c *Conn) pause(h *half, d time.Duration) error {
	var elapsed <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		elapsed = timer.C
	}
	for d != 0 {
		passed, changed := h.deadline.wait()
		select {
		case <-elapsed:
			return nil
		case <-c.done:
			return c.opError("wait", net.ErrClosed)
		case <-passed:
			return c.opError("wait", os.ErrDeadlineExceeded)
		case <-changed:
		}
	}
	return nil
}

// deadline is a time that may be moved while somebody waits for it.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	passed  chan struct{} // closed when it has passed
	changed chan struct{} // closed when it is moved
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
	passed := make(chan struct{})
	d.passed = passed
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		close(passed)
	default:
		d.timer = time.AfterFunc(wait, func() { close(passed) })
	}
}

func (d *deadline) wait() (passed, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.passed, d.changed
}

// unsent is how many bytes that were written to a socket its peer has not acknowledged
// yet; 0 if that cannot be told, so that a reset may take bytes with it.
func unsent(c *net.TCPConn) int {
	n, _ := layers.Unsent(c)
	return n
}

// Interface guards
var (
	_ net.Conn     = (*Conn)(nil)
	_ net.Listener = (*listener)(nil)
)
