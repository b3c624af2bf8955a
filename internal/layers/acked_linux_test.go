package layers_test

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// bare is a layer over a connection.
type bare struct{ net.Conn }

func (b bare) NetConn() net.Conn { return b.Conn }

// Bytes are acknowledged when the peer's system has them, not when its program has.
func TestAcked(t *testing.T) {
	client, _ := fixture.TCPEnds(t)
	over := bare{client}
	before, ok := layers.Acked(over)
	if !ok {
		t.Fatal("cannot be told")
	}
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	fixture.WaitFor(t, "acknowledged", func() bool {
		n, ok := layers.Acked(over)
		return ok && n == before+5
	})
	if _, ok := layers.Acked(struct{ net.Conn }{client}); ok {
		t.Error("told of a connection that hides its socket")
	}
}

func TestKeepUnsentLow(t *testing.T) {
	client, _ := fixture.TCPEnds(t)
	layers.KeepUnsentLow(bare{client}, 4321)
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); n != 4321 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
	layers.KeepUnsentLow(nil, 1) // nothing to set
}
