package layers_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// An end is seen behind what was sent before it, and nothing is taken.
func TestHungUp(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closed":      (*net.TCPConn).Close,
		"half-closed": (*net.TCPConn).CloseWrite,
		"reset":       func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := fixture.TCPEnds(t)
			over := tls.Server(struct{ net.Conn }{server}, nil) // over what cannot be looked at
			if _, err := client.Write([]byte("body")); err != nil {
				t.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Unix(1, 0)) // does not matter
			if layers.HungUp(server) || layers.HungUp(tls.Server(server, nil)) {
				t.Fatal("a client that is there is taken for gone")
			}
			if err := leave(client); err != nil {
				t.Fatal(err)
			}
			fixture.WaitFor(t, "seen to have left", func() bool { return layers.HungUp(server) })
			if !layers.HungUp(tls.Server(server, nil)) || layers.HungUp(over) {
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
