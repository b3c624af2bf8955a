package tunnels

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// A destination that reads, however slowly, is not stalled: its socket shows it before it
// takes more.
func TestSharedSide_GoesOn(t *testing.T) {
	far, destination := fixture.TCPEnds(t)
	client, near := net.Pipe()
	side := newSharedSide()
	r := relay.New(relay.CloseOnly{Conn: near}, far, relay.Config{})
	side.Follows(r)
	ended := make(chan struct{})
	r.Start(func(relay.Result) { close(ended) })
	// Until all buffers are full.
	for err := error(nil); err == nil; {
		_ = client.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = client.Write(make([]byte, 1<<20))
	}
	for side.goesOn() { // what was on its way arrives
	}
	if side.goesOn() {
		t.Error("it goes on, though nobody reads")
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, destination)
		read <- err
	}()
	fixture.WaitFor(t, "the destination reads", side.goesOn)
	r.End(relay.ReasonClosed)
	<-read
	<-ended
}
