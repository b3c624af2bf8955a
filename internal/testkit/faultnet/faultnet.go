package faultnet

import (
	"fmt"
	"time"
)

// Script is what happens to one connection. The zero value does nothing to it.
type Script struct {
	// Seed decides piece sizes, jitter and the bytes of garbage.
	Seed uint64

	// Up is what happens to the bytes from the end that dialed, Down to those
	// from the end that accepted.
	Up, Down Direction

	// Notify, if set, is called when a fault strikes, right after it took
	// effect, so that a test can wait for it. It is called from the goroutine
	// that moves the bytes and must not block.
	Notify func(Event)
}

// Direction is what happens to the bytes that travel one way.
type Direction struct {
	// Latency is how long each piece of bytes is held back, Jitter what is
	// added to that at random, from 0 up to it. Pieces follow one another, so
	// both bound the throughput as well. Default: 0, none.
	Latency, Jitter time.Duration

	// MaxPiece cuts the stream into pieces of 1 to MaxPiece bytes, at
	// random; with Drip set all pieces have MaxPiece bytes. A piece may
	// travel in parts if it comes in parts. Default: 0, as they come, up to
	// 32 KiB.
	MaxPiece int

	// Drip cuts into pieces of exactly MaxPiece bytes (default 1). Together
	// with Latency: n bytes every d.
	Drip bool

	// Faults strike one after the other; those with the same After strike in
	// the order they stand in. Nothing strikes behind one that ends the
	// direction: all but Garbage do.
	Faults []Fault
}

// Kind is what a fault does.
type Kind uint8

// The kinds of faults.
const (
	// KindReset breaks the connection: both ends see a reset. The receiver
	// gets what was sent before.
	KindReset Kind = iota + 1

	// KindTruncate ends the connection as if the sender had closed it: the
	// receiver sees an orderly end, what it still sends is lost, and the
	// sender finds its peer gone.
	KindTruncate

	// KindHalfClose ends this direction only: the receiver sees an orderly
	// end, what the sender still sends is lost, and the opposite direction
	// goes on.
	KindHalfClose

	// KindBlackHole lets everything that follows vanish, the end of the
	// direction included. The receiver waits for ever.
	KindBlackHole

	// KindGarbage slips in random bytes; then the stream goes on.
	KindGarbage
)

var kindNames = [...]string{"none", "reset", "truncate", "half-close", "black hole", "garbage"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Fault is one thing that goes wrong.
type Fault struct {
	Kind Kind

	// After is how many bytes of the sender pass before it strikes; 0 is
	// before the first one.
	After int64

	// Bytes is how much KindGarbage slips in. Default: 1.
	Bytes int
}

// Reset breaks the connection after n bytes.
func Reset(n int64) Fault { return Fault{Kind: KindReset, After: n} }

// Truncate closes the connection after n bytes.
func Truncate(n int64) Fault { return Fault{Kind: KindTruncate, After: n} }

// HalfClose ends the direction after n bytes.
func HalfClose(n int64) Fault { return Fault{Kind: KindHalfClose, After: n} }

// BlackHole swallows what comes after n bytes.
func BlackHole(n int64) Fault { return Fault{Kind: KindBlackHole, After: n} }

// Garbage slips in size random bytes after n bytes.
func Garbage(n int64, size int) Fault { return Fault{Kind: KindGarbage, After: n, Bytes: size} }

// Drip is a direction that delivers n bytes every d.
func Drip(n int, d time.Duration) Direction {
	return Direction{Latency: d, MaxPiece: n, Drip: true}
}

// Event is a fault that struck.
type Event struct {
	Conn  int  // which connection of the proxy or listener, from 0
	Up    bool // in which direction
	Fault Fault
}
