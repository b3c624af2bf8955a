package integration

import (
	"net"
	"strings"
	"syscall"
	"testing"
)

// smallWindow listens for connections that take little before it is read.
func smallWindow(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// The head of a request that the origin does not read is given up when the time for the
// answer is over.
func TestHead_NotTaken(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		// More than the socket takes.
		p := start(t, m, setup{egress: usual + "destination_circuit off\ntransport {\n response_header_timeout 200ms\n}\nroute {\n to direct\n header_up X-Long " + strings.Repeat("x", 8<<20) + "\n}\n"})
		end := make(chan struct{})
		defer close(end)
		origin := serveRaw(t, smallWindow(t), func(*originConn) { <-end })
		eachClient(t, p, func(t *testing.T, c *client) {
			expectError(t, c.get(t, origin.url("/")).Response, 504, "http_response_timeout")
		})
	})
}
