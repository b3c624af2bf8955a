package egress

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// directly is the way out of a handler that may reach this machine, where two names lead.
func directly(t *testing.T) *core.Direct {
	t.Helper()
	h, _ := mustLoadModule(t, `{
		"acl": [{"subjects": ["127.0.0.0/8"], "allow": true}],
		"transport": {"hosts_override": {"origin.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}}
	}`)
	return h.proxy.Direct
}

// A destination that keeps failing is not dialed for a while; other
// destinations at the same address are.
func TestDialWithOpenCircuit(t *testing.T) {
	way, port := directly(t), freePort(t)
	dest := target.Target{Host: "origin.test", Port: port}
	for range 5 {
		if _, err := way.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.Refused {
			t.Fatal(err)
		}
	}
	_, err := way.Dial(t.Context(), dest, false)
	if err == nil || failure.Of(err) != failure.Circuit || core.RetryAfter(err) < time.Second {
		t.Errorf("%v", err)
	}
	if _, err := way.Dial(t.Context(), target.Target{Host: "other.test", Port: port}, false); err == nil || failure.Of(err) != failure.Refused {
		t.Errorf("another name: %v", err)
	}
}

// A client that leaves is nobody's failure: while it is connected, or during the
// handshake.
func TestDialCanceledIsNotCharged(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, useTLS := range []bool{false, true} {
		way := directly(t)
		ctx, cancel := context.WithCancel(t.Context())
		if useTLS {
			go func() { // it never answers
				if conn, err := ln.Accept(); err == nil {
					_, _ = conn.Read(make([]byte, 1)) // the handshake has begun
					cancel()
					_, _ = conn.Read(make([]byte, 1<<16))
					conn.Close()
				}
			}()
		} else {
			cancel()
		}
		dest := target.Target{Host: "origin.test", Port: uint16(ln.Addr().(*net.TCPAddr).Port)}
		if _, err := way.Dial(ctx, dest, useTLS); failure.Of(err) != failure.Canceled {
			t.Errorf("TLS %t: %v", useTLS, err)
		}
		if n := way.Circuits.Tracked(); n != 0 {
			t.Errorf("TLS %t: the destination was charged", useTLS)
		}
		cancel()
	}
}
