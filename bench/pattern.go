//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

// Every body is made of bytes that origin and generator both know: an id that
// is different for each request, and behind it a pattern. A byte that is lost,
// doubled or out of place shows, and so does the answer to another request.

// idSize is the length of the id at the start of a body.
const idSize = 16

// noID is the id where the answer cannot depend on the request.
var noID = fmt.Appendf(nil, "%0*x", idSize, 0)

// period is how often the pattern repeats. It is a prime, so that no round
// number of bytes can be missing unseen.
const period = 65521

// pattern holds two periods, so that a whole one from any offset is one piece.
// Its bytes need no quotes in a configuration file.
var pattern = func() []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, period, 2*period)
	for i := range p {
		p[i] = alphabet[random.IntN(len(alphabet))]
	}
	return append(p, p...)
}()

// patternAt returns up to max bytes of the pattern from an offset on, at least
// one.
func patternAt(offset, max int64) []byte {
	from := offset % period
	return pattern[from:min(from+max, from+period)]
}

// body checks, or makes, the bytes of one body from its start.
type body struct {
	id     []byte // empty where there is only the pattern
	offset int64
}

// next returns up to max of the next bytes.
func (b *body) next(max int64) []byte {
	if b.offset < int64(len(b.id)) {
		return b.id[b.offset:min(int64(len(b.id)), b.offset+max)]
	}
	return patternAt(b.offset, max)
}

// append appends the next n bytes to p.
func (b *body) append(p []byte, n int64) []byte {
	for n > 0 {
		piece := b.next(n)
		p = append(p, piece...)
		b.offset += int64(len(piece))
		n -= int64(len(piece))
	}
	return p
}

// check compares p with the next bytes.
func (b *body) check(p []byte) error {
	for len(p) > 0 {
		want := b.next(int64(len(p)))
		if !bytes.Equal(p[:len(want)], want) {
			return fmt.Errorf("wrong byte within %d bytes from offset %d", len(want), b.offset)
		}
		b.offset += int64(len(want))
		p = p[len(want):]
	}
	return nil
}
