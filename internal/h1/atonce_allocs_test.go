//go:build unix && !race

package h1

import (
	"io"
	"testing"
)

// TestAllocs_WriteAtOnce: a head is written without an allocation.
func TestAllocs_WriteAtOnce(t *testing.T) {
	client, server := tcpPair(t)
	go func() { _, _ = io.Copy(io.Discard, server) }()
	c, head := NewConn(client), make([]byte, 300)
	if got := testing.AllocsPerRun(1000, func() {
		if n, err := c.WriteAtOnce(head); n != len(head) || err != nil {
			t.Fatal(n, err)
		}
	}); got > 0 {
		t.Errorf("%v allocations", got)
	}
}
