//go:build unix && !race

package h1

import (
	"crypto/tls"
	"net"
	"testing"
)

// TestAllocs_Alive: looking at an idle connection allocates nothing, but for the
// reader that crypto/tls makes for each record.
func TestAllocs_Alive(t *testing.T) {
	plain, _ := tcpPair(t)
	over, _, _ := tlsPair(t, tlsOptions{version: tls.VersionTLS12, noteEOF: true})
	for name, tc := range map[string]struct {
		nc   net.Conn
		want float64
	}{"plain": {plain, 0}, "TLS": {over, 1}} {
		c := NewConn(tc.nc)
		if got := testing.AllocsPerRun(1000, func() {
			if !c.Alive() {
				t.Fatal("not alive")
			}
		}); got > tc.want {
			t.Errorf("%s: %v allocations, want %v", name, got, tc.want)
		}
	}
}
