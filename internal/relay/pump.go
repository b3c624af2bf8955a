package relay

import (
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// bufferSize is what a direction borrows while data is at hand: two TLS
	// records, or what a fast TCP sender delivers between two reads.
	bufferSize = 32 << 10

	// smallSize is what a direction keeps for a read that may block for
	// hours on a stream that cannot be waited for in another way.
	smallSize = 512

	// burstMinimum is how much a read must return for the next one to use
	// the borrowed buffer again. Most bursts end with less; one that does
	// not keeps its buffer until the next byte comes.
	burstMinimum = bufferSize / 4

	// maxEmptyReads is how often in a row a stream may return neither bytes
	// nor an error before it is taken for broken.
	maxEmptyReads = 100
)

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// pump is one direction of a relay.
type pump struct {
	relay    *Relay
	side     Reason // whose end of stream ends this direction
	src, dst Stream
	early    []byte
	taken    atomic.Int64 // bytes read from the source, early ones included
	moved    atomic.Int64 // bytes the destination took
	recent   recent       // bytes read lately
	through  bool         // the source has ended, and all of it was delivered; guarded by relay.mu
	pacer    *pacer       // nil without rates
	pacing   atomic.Bool  // it waits for its rate
	shown    look         // for Relay.UpGoesOn
	timed    look         // for the timer; guarded by relay.mu

	// tcp replaces the portable copy where the platform can wait for a TCP
	// source without holding a buffer; otherwise nil. It points to tcpState:
	// one object a tunnel is cheaper than five.
	tcp      *tcpPump
	tcpState tcpPump

	// For tests: how many bytes the kernel moved, and how many buffers and
	// pipes the direction holds at this moment.
	spliced atomic.Int64
	lent    atomic.Int32
}

// init makes the pump ready. from and to are the sockets of its streams, nil for
// one that is no socket.
func (p *pump) init(r *Relay, side Reason, src, dst Stream, from, to syscall.RawConn, early []byte) {
	p.relay, p.side, p.src, p.dst, p.early = r, side, src, dst, early
	p.taken.Store(int64(len(early)))
	if from != nil {
		p.tcp = &p.tcpState
		p.tcp.init(p, from, to)
	}
}

func (p *pump) canSplice() bool { return p.tcp != nil && p.tcp.canSplice() }

// run moves bytes until the direction ends, and reports that to the relay.
func (p *pump) run() {
	rerr, werr := p.copy()
	p.relay.pumpEnded(p, rerr, werr)
}

// copy returns the end (io.EOF) or failure of the source, or the failure of
// the destination.
func (p *pump) copy() (rerr, werr error) {
	if werr := p.writeEarly(); werr != nil {
		return nil, werr
	}
	if p.tcp != nil {
		return p.tcp.copy()
	}
	return p.copyStream()
}

// writeEarly delivers what came before the relay began, and lets go of it: a
// tunnel may live long.
func (p *pump) writeEarly() error {
	early := p.early
	p.early = nil
	if len(early) == 0 {
		return nil
	}
	return p.write(early)
}

// copyStream waits with a small buffer and takes a large one for a burst.
func (p *pump) copyStream() (rerr, werr error) {
	small := make([]byte, smallSize)
	for {
		n, rerr, werr := p.step(small)
		if rerr != nil || werr != nil {
			return rerr, werr
		}
		if n < len(small) {
			continue
		}
		if rerr, werr = p.burst(); rerr != nil || werr != nil {
			return rerr, werr
		}
	}
}

// burst moves bytes with a borrowed buffer while reads return much.
func (p *pump) burst() (rerr, werr error) {
	buf := p.borrow()
	defer p.giveBack(buf)
	for {
		n, rerr, werr := p.step(buf[:])
		if rerr != nil || werr != nil || n < burstMinimum {
			return rerr, werr
		}
	}
}

// step reads once and delivers what came.
func (p *pump) step(buf []byte) (n int, rerr, werr error) {
	for range maxEmptyReads {
		n, rerr = p.src.Read(buf)
		if n > 0 {
			p.took(n)
			return n, rerr, p.write(buf[:n])
		}
		if rerr != nil {
			return 0, rerr, nil
		}
	}
	return 0, io.ErrNoProgress, nil
}

// took notes that bytes were read.
func (p *pump) took(n int) {
	p.recent.note(p.relay.touch(), p.taken.Add(int64(n))-int64(n))
}

// holds reports whether bytes were read that the destination has not taken. What
// was taken is looked at last: bytes under way may count as held, never the reverse.
func (p *pump) holds() bool {
	moved := p.moved.Load()
	return p.taken.Load() != moved
}

// write delivers b to the destination, as fast as it may.
func (p *pump) write(b []byte) error {
	p.waits()
	if p.pacer == nil {
		return p.writeNow(b)
	}
	for len(b) > 0 {
		piece := b[:min(len(b), p.pacer.piece())]
		if err := p.waitTurn(len(piece)); err != nil {
			return err
		}
		p.relay.touch() // to wait for one's turn is not to be idle
		if err := p.writeNow(piece); err != nil {
			return err
		}
		b = b[len(piece):]
	}
	return nil
}

// waits is called before bytes at hand wait, or may: nobody reads from the source
// meanwhile.
func (p *pump) waits() {
	if p.side == ReasonClient {
		p.relay.watch()
	}
}

// waitTurn waits until the rates allow n bytes more.
func (p *pump) waitTurn(n int) error {
	p.waits()
	p.pacing.Store(true)
	defer p.pacing.Store(false)
	return p.pacer.wait(n)
}

// writeNow delivers b and counts what the destination took.
func (p *pump) writeNow(b []byte) error {
	n, err := p.dst.Write(b)
	p.moved.Add(int64(n))
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

func (p *pump) borrow() *buffer {
	p.lent.Add(1)
	return buffers.Get().(*buffer)
}

func (p *pump) giveBack(buf *buffer) {
	buffers.Put(buf)
	p.lent.Add(-1)
}
