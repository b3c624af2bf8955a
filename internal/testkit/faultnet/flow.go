package faultnet

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// maxPiece is the most that moves at once.
const maxPiece = 32 << 10

// flow says what happens next to the bytes of one direction. It has no clock and
// no lock, and knows no connection.
type flow struct {
	dir    Direction
	faults []Fault // those to come, by After
	cuts   *rand.Rand
	jitter *rand.Rand
	junk   *rand.ChaCha8
	passed int64 // bytes of the sender that went through
	cut    int64 // where the current piece ends
}

func newFlow(dir Direction, seed uint64, up bool) *flow {
	stream := uint64(2)
	if up {
		stream = 1
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	key[8] = byte(stream)
	f := &flow{
		dir:    dir,
		faults: slices.Clone(dir.Faults),
		cuts:   rand.New(rand.NewPCG(seed, stream)),
		jitter: rand.New(rand.NewPCG(seed, stream+2)),
		junk:   rand.NewChaCha8(key),
	}
	slices.SortStableFunc(f.faults, func(a, b Fault) int { return cmp.Compare(a.After, b.After) })
	return f
}

// due takes the fault that strikes at this point, if one does.
func (f *flow) due() (Fault, bool) {
	if len(f.faults) == 0 || f.faults[0].After > f.passed {
		return Fault{}, false
	}
	fault := f.faults[0]
	f.faults = f.faults[1:]
	return fault, true
}

// room is how many bytes may move at once: up to the end of the piece, or to the
// next fault.
func (f *flow) room() int {
	if f.cut <= f.passed {
		f.cut = f.passed + f.pieceSize()
	}
	n := f.cut - f.passed
	if len(f.faults) > 0 {
		n = min(n, f.faults[0].After-f.passed)
	}
	return int(n)
}

func (f *flow) pieceSize() int64 {
	switch {
	case f.dir.Drip:
		return int64(min(max(f.dir.MaxPiece, 1), maxPiece))
	case f.dir.MaxPiece > 0:
		return 1 + f.cuts.Int64N(int64(min(f.dir.MaxPiece, maxPiece)))
	}
	return maxPiece
}

// advance notes that n bytes have moved.
func (f *flow) advance(n int) { f.passed += int64(n) }

// delay is how long the next bytes are held back.
func (f *flow) delay() time.Duration {
	d := f.dir.Latency
	if f.dir.Jitter > 0 {
		d += time.Duration(f.jitter.Int64N(int64(f.dir.Jitter) + 1))
	}
	return max(d, 0)
}

// garbage returns the bytes that a fault slips in.
func (f *flow) garbage(fault Fault) []byte {
	b := make([]byte, max(fault.Bytes, 1))
	_, _ = f.junk.Read(b) // never fails
	return b
}
