package pattern

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
)

// IDSize is the length of the id at the start of a body.
const IDSize = 16

// NoID is the id where the answer cannot depend on the request.
var NoID = fmt.Appendf(nil, "%0*x", IDSize, 0)

// period is how often the pattern repeats. It is a prime, so that no round
// number of bytes can be missing unseen.
const period = 65521

// periods holds two periods, so that a whole one from any offset is one piece.
// Its bytes need no quotes in a configuration file.
var periods = func() []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, period, 2*period)
	for i := range p {
		p[i] = alphabet[random.IntN(len(alphabet))]
	}
	return append(p, p...)
}()

// at returns up to max bytes of the pattern from an offset on, at least
// one.
func at(offset, max int64) []byte {
	from := offset % period
	return periods[from:min(from+max, from+period)]
}

// Body checks, or makes, the bytes of one body from its start.
type Body struct {
	// ID is what it begins with; empty where there is only the pattern.
	ID []byte
	// Offset is where the next byte stands.
	Offset int64
}

// Next returns up to max of the next bytes.
func (b *Body) Next(max int64) []byte {
	if b.Offset < int64(len(b.ID)) {
		return b.ID[b.Offset:min(int64(len(b.ID)), b.Offset+max)]
	}
	return at(b.Offset, max)
}

// Append appends the next n bytes to p.
func (b *Body) Append(p []byte, n int64) []byte {
	for n > 0 {
		piece := b.Next(n)
		p = append(p, piece...)
		b.Offset += int64(len(piece))
		n -= int64(len(piece))
	}
	return p
}

// Send writes the next n bytes to w.
func (b *Body) Send(w io.Writer, n int64) error {
	for n > 0 {
		piece := b.Next(n)
		if _, err := w.Write(piece); err != nil {
			return err
		}
		b.Offset += int64(len(piece))
		n -= int64(len(piece))
	}
	return nil
}

// Check compares p with the next bytes.
func (b *Body) Check(p []byte) error {
	for len(p) > 0 {
		want := b.Next(int64(len(p)))
		if !bytes.Equal(p[:len(want)], want) {
			return fmt.Errorf("wrong byte within %d bytes from offset %d", len(want), b.Offset)
		}
		b.Offset += int64(len(want))
		p = p[len(want):]
	}
	return nil
}
