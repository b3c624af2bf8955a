package relay

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is asked for, the most an unprivileged process gets. Measured
	// on loopback, 256 KiB cost a fifth more CPU per byte. A packet takes a
	// slot of a page, however small it is, so with those of a network card
	// 1 MiB is some 360 KiB of payload.
	pipeSize = 1024 << 10

	// pipeMinimum is the least worth having: past the soft limit on a user's
	// pipe pages (fs.pipe-user-pages-soft) Linux makes pipes of one or two.
	pipeMinimum = 64 << 10

	// maxPipes bounds the pipes in use and kept: two descriptors each, and
	// the bytes in them while a reader is slow. Without one a direction
	// copies.
	maxPipes = 256

	// pipeTrim is how often pipes that nobody needed meanwhile are closed.
	pipeTrim = 5 * time.Second
)

// pipe is an empty pipe between two splices. Only its owner touches it.
type pipe struct {
	r, w int
	size int // capacity in bytes
}

// pipePool keeps pipes for the next burst. It closes those that were not
// needed for a while, so that quiet tunnels hold no descriptors but their own.
type pipePool struct {
	trimEvery time.Duration

	mu       sync.Mutex
	free     []*pipe // last in, first out
	open     int     // all pipes, lent and free
	low      int     // the fewest that were free since the last trim
	trimming bool    // a trim is due
}

var pipes = pipePool{trimEvery: pipeTrim}

// get lends an empty pipe; nil if there are too many, or the system refuses.
func (pp *pipePool) get() *pipe {
	pp.mu.Lock()
	if last := len(pp.free) - 1; last >= 0 {
		p := pp.free[last]
		pp.free[last] = nil
		pp.free = pp.free[:last]
		pp.low = min(pp.low, last)
		pp.mu.Unlock()
		return p
	}
	if pp.open >= maxPipes {
		pp.mu.Unlock()
		return nil
	}
	pp.open++
	pp.mu.Unlock()

	p := newPipe()
	if p == nil {
		pp.mu.Lock()
		pp.open--
		pp.mu.Unlock()
	}
	return p
}

// put takes an empty pipe back.
func (pp *pipePool) put(p *pipe) {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	pp.free = append(pp.free, p)
	if !pp.trimming {
		pp.trimming = true
		pp.low = len(pp.free)
		time.AfterFunc(pp.trimEvery, pp.trim)
	}
}

// discard closes a pipe that may not be empty.
func (pp *pipePool) discard(p *pipe) {
	p.close()
	pp.mu.Lock()
	defer pp.mu.Unlock()
	pp.open--
}

// trim closes the pipes that stayed free since the last time: the oldest ones.
func (pp *pipePool) trim() {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	n := min(pp.low, len(pp.free))
	for i, p := range pp.free[:n] {
		p.close()
		pp.free[i] = nil
	}
	kept := copy(pp.free, pp.free[n:])
	clear(pp.free[kept:])
	pp.free = pp.free[:kept]
	pp.open -= n
	pp.low = kept
	pp.trimming = kept > 0
	if pp.trimming {
		time.AfterFunc(pp.trimEvery, pp.trim)
	}
}

func newPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	size, err := unix.FcntlInt(uintptr(p.r), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, err = unix.FcntlInt(uintptr(p.r), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil || size < pipeMinimum {
		p.close()
		return nil
	}
	p.size = size
	return p
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}
