package auth

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

type clientKey struct{}

// A check ends when its client leaves, also where net/http does not see that: behind a
// body that was not read.
func TestChecksEndWithTheirConnections(t *testing.T) {
	h := newGated(t)
	h.hungUp = func(ctx context.Context) func() bool {
		conn, _ := ctx.Value(clientKey{}).(net.Conn)
		return func() bool { return conn != nil && layers.HungUp(conn) }
	}
	defer close(h.gate)
	go func() { _, _, _, _ = h.Login(t.Context(), "192.0.2.1", fixture.BasicLogin("nobody", "runs")) }()
	<-h.order
	client, server := fixture.TCPEnds(t)
	ctx := context.WithValue(t.Context(), clientKey{}, net.Conn(server))
	left := make(chan error, 1)
	login := func() {
		_, _, _, err := h.Login(ctx, "192.0.2.1", fixture.BasicLogin("nobody", "waits"))
		left <- err
	}
	go login()
	waiting := func() bool {
		h.verifier.queue.mu.Lock()
		defer h.verifier.queue.mu.Unlock()
		return h.verifier.queue.waiting == 1
	}
	fixture.WaitFor(t, "one that waits", waiting)
	if _, err := client.Write([]byte("body")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that has left: %v", err)
	}
	fixture.WaitFor(t, "none that waits", func() bool { return !waiting() })
	// One that has left before is not even put into the queue.
	login()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that had left: %v", err)
	}
}
