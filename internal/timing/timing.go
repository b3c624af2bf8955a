package timing

import (
	"context"
	"sync"
	"time"
)

// Part is a part of the way to an answer.
type Part uint8

// The parts, in the order of the way.
const (
	DNS     Part = iota // from the question for a name to the first answer
	Connect             // TCP, or a unix socket
	TLS                 // the handshake with the proxy
	Login               // user and password of SOCKS
	Answer              // the rest: from the request to the answer that decides
	Parts               // how many there are
)

// Clock takes the times of the parts of one attempt. A nil Clock takes none. It is safe for
// concurrent use.
type Clock struct {
	mu   sync.Mutex
	took [Parts]time.Duration // 0: not known
	done [Parts]bool          // it went well
}

type key struct{}

// With makes a Clock, and a context by which it is told.
func With(ctx context.Context) (context.Context, *Clock) {
	c := new(Clock)
	return context.WithValue(ctx, key{}, c), c
}

// Of is the Clock of a context; nil if there is none.
func Of(ctx context.Context) *Clock {
	c, _ := ctx.Value(key{}).(*Clock)
	return c
}

// Since tells that a part has ended now, well or not. Of several attempts at one, the first
// that went well counts, otherwise the last.
func (c *Clock) Since(p Part, began time.Time, ok bool) {
	if c == nil {
		return
	}
	took := max(time.Since(began), 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done[p] {
		c.took[p], c.done[p] = took, ok
	}
}

// SinceRest tells that the whole has ended now: what no other part has taken was for Answer.
// Where another part has failed, nothing was asked.
func (c *Clock) SinceRest(began time.Time, ok bool) {
	if c == nil {
		return
	}
	rest := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range Answer {
		if rest -= c.took[p]; c.took[p] > 0 && !c.done[p] {
			return
		}
	}
	c.took[Answer], c.done[Answer] = max(rest, 1), ok
}

// Times are those that are known; 0 for those that are not.
func (c *Clock) Times() [Parts]time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.took
}
