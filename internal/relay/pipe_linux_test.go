package relay

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func TestPipePoolReuses(t *testing.T) {
	pp := &pipePool{trimEvery: time.Hour, trimming: true}
	a := pp.get()
	b := pp.get()
	if a == nil || b == nil || a == b || pp.open != 2 {
		t.Fatalf("got %v and %v, %d open", a, b, pp.open)
	}
	if a.size < pipeMinimum {
		t.Errorf("capacity %d", a.size)
	}
	pp.put(a)
	pp.put(b)
	if got := pp.get(); got != b {
		t.Error("not the pipe that was used last")
	}
	pp.discard(b)
	if pp.open != 1 || isOpen(b.r) || isOpen(b.w) {
		t.Errorf("a discarded pipe is open, or counted: %d", pp.open)
	}
	pp.discard(pp.get())
	if pp.open != 0 || len(pp.free) != 0 {
		t.Errorf("%d open, %d free; want none", pp.open, len(pp.free))
	}
}

func TestPipePoolIsBounded(t *testing.T) {
	pp := &pipePool{trimEvery: time.Hour, trimming: true, open: maxPipes - 1}
	p := pp.get()
	if p == nil {
		t.Fatal("refused below the bound")
	}
	if extra := pp.get(); extra != nil {
		t.Error("lent beyond the bound")
	}
	pp.discard(p)
	if p = pp.get(); p == nil {
		t.Fatal("refused after one came back")
	}
	pp.discard(p)
}

// A trim closes what was not needed since the one before, and only that.
func TestPipePoolTrim(t *testing.T) {
	pp := &pipePool{trimEvery: time.Hour}
	var lent [4]*pipe
	for i := range lent {
		lent[i] = pp.get()
	}
	for _, p := range lent {
		pp.put(p)
	}
	if !pp.trimming {
		t.Fatal("no trim is due")
	}
	pp.trim() // low was 1 when the trim was armed: the pool was in use
	if len(pp.free) != 3 || isOpen(lent[0].r) {
		t.Fatalf("%d free; want the oldest one closed", len(pp.free))
	}
	used := pp.get() // one of three is in demand
	pp.put(used)
	pp.trim()
	if len(pp.free) != 1 || pp.free[0] != used || pp.open != 1 {
		t.Fatalf("%d free, %d open; want the one in demand", len(pp.free), pp.open)
	}
	pp.trim()
	if len(pp.free) != 0 || pp.open != 0 || pp.trimming {
		t.Errorf("%d free, %d open, trim due: %v; want none", len(pp.free), pp.open, pp.trimming)
	}
	for _, p := range lent {
		if isOpen(p.r) || isOpen(p.w) {
			t.Error("a trimmed pipe is open")
		}
	}
}

// Time alone empties the pool.
func TestPipePoolTrimsByItself(t *testing.T) {
	pp := &pipePool{trimEvery: time.Millisecond}
	a, b := pp.get(), pp.get()
	pp.put(a)
	pp.put(b)
	eventually(t, "the pool is empty", func() bool {
		pp.mu.Lock()
		defer pp.mu.Unlock()
		return pp.open == 0 && len(pp.free) == 0 && !pp.trimming
	})
}
