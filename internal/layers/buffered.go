package layers

import (
	"bufio"
	"io"
)

// Buffered copies what a reader holds, so that the reader can go.
func Buffered(r *bufio.Reader) []byte {
	n := r.Buffered()
	if n == 0 {
		return nil
	}
	early := make([]byte, n)
	_, _ = io.ReadFull(r, early) // they are there
	return early
}
