package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// tcpEnds are both ends of a TCP connection.
func tcpEnds(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not yet: %s", what)
		}
	}
}

// An end is seen behind what was sent before it, and nothing is taken.
func TestHasHungUp(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closed":      (*net.TCPConn).Close,
		"half-closed": (*net.TCPConn).CloseWrite,
		"reset":       func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := tcpEnds(t)
			over := tls.Server(struct{ net.Conn }{server}, nil) // over what cannot be looked at
			if _, err := client.Write([]byte("body")); err != nil {
				t.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Unix(1, 0)) // does not matter
			if hasHungUp(server) || hasHungUp(tls.Server(server, nil)) {
				t.Fatal("a client that is there is taken for gone")
			}
			if err := leave(client); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "seen to have left", func() bool { return hasHungUp(server) })
			if !hasHungUp(tls.Server(server, nil)) || hasHungUp(over) {
				t.Error("TLS is not looked through, or what cannot be looked at is")
			}
			_ = server.SetReadDeadline(time.Time{})
			if name != "reset" {
				if got, err := io.ReadAll(server); string(got) != "body" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// A check ends when its client leaves, also where net/http does not see that: behind a
// body that was not read.
func TestAuthChecksEndWithTheirConnections(t *testing.T) {
	h := newGated(t)
	defer close(h.gate)
	go func() { _, _, _, _ = h.login(t.Context(), "192.0.2.1", basicHeader("nobody", "runs")) }()
	<-h.order
	client, server := tcpEnds(t)
	ctx := context.WithValue(t.Context(), clientConnKey{}, net.Conn(server))
	left := make(chan error, 1)
	login := func() {
		_, _, _, err := h.login(ctx, "192.0.2.1", basicHeader("nobody", "waits"))
		left <- err
	}
	go login()
	waiting := func() bool {
		h.verifier.queue.mu.Lock()
		defer h.verifier.queue.mu.Unlock()
		return h.verifier.queue.waiting == 1
	}
	waitFor(t, "one that waits", waiting)
	if _, err := client.Write([]byte("body")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that has left: %v", err)
	}
	waitFor(t, "none that waits", func() bool { return !waiting() })
	// One that has left before is not even put into the queue.
	login()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that had left: %v", err)
	}
}
