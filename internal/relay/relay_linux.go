package relay

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// fullReads is how many reads in a row must fill the buffer before the
	// kernel takes over. A pipe costs more than it saves on small bursts.
	fullReads = 4

	// smallSplices is how many splices in a row may move less than
	// spliceMinimum before the direction goes back to copying.
	smallSplices  = 4
	spliceMinimum = bufferSize / 2

	// noPipeReads is how many full reads pass before a pipe is asked for
	// again after there was none.
	noPipeReads = 64

	spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
)

// tcpPump is a direction whose source is a TCP socket. It waits for the socket
// inside RawConn.Read and takes a buffer or a pipe only when there is
// something to read, so it holds neither while parked. The destination is
// written to in the same manner if it is a TCP socket, otherwise by its Write.
type tcpPump struct {
	*pump
	from, to syscall.RawConn              // to is nil if the destination is no TCP socket
	readable func(fd uintptr) (done bool) // onReadable, as a value made once
	writable func(fd uintptr) (done bool) // onWritable

	splicing bool // the mode: pipe or buffer
	noSplice bool // the kernel refused once
	full     int  // full reads in a row (copying), negative: wait for a pipe
	small    int  // small splices in a row (splicing)

	buf  *buffer // borrowed, or nil
	pipe *pipe   // borrowed, or nil

	// What the callbacks return besides done.
	n      int    // bytes read, or bytes in the pipe
	out    []byte // bytes still to write (copying)
	err    error
	waited bool // the destination was full
}

func (t *tcpPump) init(p *pump, from, to syscall.RawConn) {
	t.pump, t.from, t.to = p, from, to
	t.readable, t.writable = t.onReadable, t.onWritable
}

func (t *tcpPump) canSplice() bool { return t.to != nil }

// copy moves bytes until one of the sockets ends or fails.
func (t *tcpPump) copy() (rerr, werr error) {
	defer t.release()
	for {
		t.n, t.err = 0, nil
		if err := t.from.Read(t.readable); err != nil {
			return err, nil
		}
		if t.err != nil {
			return t.err, nil
		}
		if t.n == 0 {
			return io.EOF, nil
		}
		t.took(t.n)
		t.adapt()
		if err := t.deliver(); err != nil {
			return nil, err
		}
		if t.splicing != (t.pipe != nil) {
			t.release() // the mode changed; nothing is at hand
		}
	}
}

// onReadable is called when the source may have something. Returning false
// parks the goroutine until the socket says so.
//
// One read returns less than a buffer, and yet the next one is needed to see
// the socket empty before parking: the poller is edge-triggered, and an end of
// stream that came with the data would make no further edge.
func (t *tcpPump) onReadable(fd uintptr) bool {
	if t.splicing {
		if done, ok := t.spliceIn(int(fd)); ok {
			return done
		}
	}
	if t.buf == nil {
		t.buf = t.borrow()
	}
	room := t.room(bufferSize)
	n, err := retry(func() (int, error) { return unix.Read(int(fd), t.buf[:room]) })
	if err == unix.EAGAIN {
		t.release()
		return false
	}
	t.n, t.err = max(n, 0), os.NewSyscallError("read", err)
	return true
}

// room is how many bytes to take at once where size would fit.
func (t *tcpPump) room(size int) int {
	if t.pacer == nil || t.to == nil {
		return size // without a socket to write to, write cuts what was read
	}
	return min(size, t.pacer.piece())
}

// spliceIn moves bytes from the socket into a pipe. ok is false if that cannot
// be done and the bytes must be copied; no byte has moved then.
//
// The pipe is empty whenever this is called, so EAGAIN speaks of the socket.
func (t *tcpPump) spliceIn(fd int) (done, ok bool) {
	if t.pipe == nil {
		if t.pipe = pipes.get(); t.pipe == nil {
			t.stopSplicing(-noPipeReads)
			return false, false
		}
		t.lent.Add(1)
	}
	n, err := retry(func() (int, error) {
		n, err := unix.Splice(fd, nil, t.pipe.w, nil, t.room(t.pipe.size), spliceFlags)
		return int(n), err
	})
	switch err {
	case nil:
		t.n = n
		return true, true
	case unix.EAGAIN:
		t.release()
		return false, true
	case unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP:
		// Some kernels, sandboxes and socket types cannot.
		t.noSplice = true
		t.returnPipe(false)
		t.stopSplicing(0)
		return false, false
	}
	t.err = os.NewSyscallError("splice", err)
	return true, true
}

// deliver moves the bytes at hand to the destination.
func (t *tcpPump) deliver() error {
	if t.to == nil {
		return t.write(t.buf[:t.n])
	}
	if t.pipe == nil {
		t.out = t.buf[:t.n]
	}
	t.waited = false
	if t.pacer != nil {
		if err := t.waitTurn(t.n); err != nil {
			return err
		}
		t.waited = true // so that to wait for one's turn is not to be idle
	}
	err := t.to.Write(t.writable)
	t.out = nil
	if err != nil {
		return err
	}
	return t.err
}

// onWritable is called when the destination may take something. Returning
// false parks the goroutine until the socket says so.
func (t *tcpPump) onWritable(fd uintptr) bool {
	for t.n > 0 {
		n, err := retry(func() (int, error) { return t.put(int(fd)) })
		if err == unix.EAGAIN {
			t.waited = true
			t.waits()
			return false
		}
		if err != nil {
			t.err = os.NewSyscallError("write", err)
			return true
		}
		t.n -= n
		t.moved.Add(int64(n))
		if t.waited {
			// A slow reader is no idle one. Only here: the bytes that never
			// waited were noted when they came in.
			t.relay.touch()
		}
	}
	return true
}

// put writes once, from the pipe or from the buffer.
func (t *tcpPump) put(fd int) (int, error) {
	if t.pipe == nil {
		n, err := unix.Write(fd, t.out)
		if n > 0 {
			t.out = t.out[n:]
		}
		return n, err
	}
	n, err := unix.Splice(t.pipe.r, nil, fd, nil, t.n, spliceFlags)
	if err == nil && n == 0 {
		return 0, unix.EPIPE // the pipe holds bytes, yet none would go
	}
	t.spliced.Add(max(n, 0))
	return int(n), err
}

// adapt chooses the mode of the next read by the size of the last ones. What is
// at hand is still delivered from where it is.
func (t *tcpPump) adapt() {
	switch {
	case t.pipe != nil && t.n >= spliceMinimum:
		t.small = 0
	case t.pipe != nil:
		if t.small++; t.small >= smallSplices {
			t.splicing, t.full = false, 0
		}
	case t.n < bufferSize:
		t.full = min(t.full, 0)
	default:
		if t.full++; t.full >= fullReads && t.to != nil && !t.noSplice {
			t.splicing, t.small = true, 0
		}
	}
}

func (t *tcpPump) stopSplicing(full int) {
	t.release()
	t.splicing, t.full = false, full
}

// release gives back what was borrowed.
func (t *tcpPump) release() {
	if t.buf != nil {
		t.giveBack(t.buf)
		t.buf = nil
	}
	t.returnPipe(t.n == 0 && t.err == nil)
}

// returnPipe gives the pipe back. One that may hold bytes is closed: its next
// user would send them to somebody else.
func (t *tcpPump) returnPipe(clean bool) {
	if t.pipe == nil {
		return
	}
	if clean {
		pipes.put(t.pipe)
	} else {
		pipes.discard(t.pipe)
	}
	t.pipe = nil
	t.lent.Add(-1)
}

// retry calls f until a signal does not interrupt it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
