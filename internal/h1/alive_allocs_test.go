//go:build unix && !race

package h1

import (
	"crypto/tls"
	"net"
	"testing"
)

// TestAllocs_Alive: looking at an idle connection allocates nothing.
func TestAllocs_Alive(t *testing.T) {
	plain, _ := tcpPair(t)
	over, _, _ := tlsPair(t, tlsOptions{version: tls.VersionTLS12, noteEOF: true})
	for name, nc := range map[string]net.Conn{"plain": plain, "TLS": over} {
		c := NewConn(nc)
		if got := testing.AllocsPerRun(1000, func() {
			if !c.Alive() {
				t.Fatal("not alive")
			}
		}); got > 0 {
			t.Errorf("%s: %v allocations, want none", name, got)
		}
	}
}
