//go:build unix

package h1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
)

// A write at once takes what the socket has room for, and goes on from there when the peer
// has read.
func TestWriteAtOnce(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, early := range []bool{false, true} {
			l := overSocket(t, network)
			if early {
				l = l.early()
			}
			client, server := l.top()
			c := NewConn(client)
			p := bytes.Repeat([]byte("0123456789"), 2<<20)
			n, err := c.WriteAtOnce(p)
			if n == 0 || n == len(p) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: %d of %d, %v", network, n, len(p), err)
			}
			if again, err := c.WriteAtOnce(p[n:]); again == len(p)-n || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: a full socket has taken all, %v", network, err)
			} else {
				n += again
			}
			got := make([]byte, n)
			if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, p[:n]) {
				t.Errorf("%s: what was written is not what came, %v", network, err)
			}
			if n, err := c.WriteAtOnce(p[:10]); n != 10 || err != nil {
				t.Errorf("%s: %d, %v when there is room", network, n, err)
			}
		}
	}
}

// A connection with TLS would break of a write that is given up: nothing is written.
func TestWriteAtOnce_Cannot(t *testing.T) {
	over, _, _ := tlsPair(t, tlsOptions{version: tls.VersionTLS13, noteEOF: true})
	for name, nc := range map[string]net.Conn{"TLS": over, "a type that is not known": struct{ net.Conn }{over}, "the same behind early bytes": WithEarly(struct{ net.Conn }{over}, nil)} {
		if n, err := NewConn(nc).WriteAtOnce([]byte("GET")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// An error is that of a write.
func TestWriteAtOnce_Error(t *testing.T) {
	client, server := tcpPair(t)
	c := NewConn(client)
	_ = server.SetLinger(0)
	server.Close()
	_, _ = io.ReadFull(client, make([]byte, 1)) // the reset is there
	var op *net.OpError
	var call *os.SyscallError
	if _, err := c.WriteAtOnce([]byte("GET")); !errors.As(err, &op) || op.Op != "write" || !errors.As(err, &call) || call.Syscall != "write" {
		t.Errorf("%#v", err)
	}
	c.Close()
	if _, err := c.WriteAtOnce([]byte("GET")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
