package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/clientend"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains the table of what each guard does with each type of connection,
// and guards_conns_linux_test.go how one of each is made. A type that is in no row fails
// TestGuards_EveryTypeIsListed.

// guardPatience bounds what must happen.
const guardPatience = 20 * time.Second

// What may stand in a cell.
const (
	can    = "can"
	none   = "cannot: not asked for"                                       // no caller has this guard for this type
	unused = "cannot: not reused"                                          // Alive is false, Silent nil
	both   = "cannot: closes both directions instead"                      // CloseWrite
	later  = "cannot: the peer sees the end with the end of the request"   // CloseWrite
	reset  = "the peer sees a reset"                                       // Reset
	cut    = "cannot reset: the peer sees TLS end without a closure alert" // Reset
	closed = "cannot reset: closed instead"                                // Reset
	copied = "cannot: copied"                                              // splice
)

// guardRow is what the guards do with one type of connection.
type guardRow struct {
	name  string
	types []string // declared here, which it is about
	open  func(t *testing.T) *guarded

	look      string // Alive and Silent, before a request goes out on a connection
	halfClose string
	abort     string
	readBy    string // a read deadline
	writeBy   string
	splice    string // between it and TCP
}

var guardTable = []guardRow{
	// What a connection to an origin or to an upstream is made of.
	{"TCP", nil, openSocket("tcp"), can, can, reset, can, can, can},
	{"unix socket", nil, openSocket("unix"), can, can, closed, can, can, copied},
	{"TLS", []string{"h1.base"}, openTLSOver(openSocket("tcp")), can, can, reset, can, can, copied},
	{"TLS over a unix socket", nil, openTLSOver(openSocket("unix")), can, can, cut, can, can, copied},
	{"tunnel through a TLS upstream", []string{"proxydial.tlsTunnel"}, openTLSUpstream, can, can, reset, can, can, copied},
	{"TLS in TLS", nil, openTLSOver(openTLSUpstream), can, can, reset, can, can, copied},
	{"stream of HTTP/2 to an upstream", []string{"proxydial.stream"}, openH2Upstream, can, can, reset, can, can, copied},
	{"TLS over a stream of HTTP/2", nil, openTLSOver(openH2Upstream), can, can, reset, can, can, copied},
	{"behind early bytes", []string{"h1.earlyConn"}, openEarly, can, none, none, can, can, none},
	{"an unknown type", nil, openWrapped(openSocket("tcp")), unused, none, none, can, can, none},
	{"TLS over an unknown type", nil, openTLSOver(openWrapped(openSocket("tcp"))), unused, can, cut, can, can, copied},

	// What the client's side of a tunnel is. The wrapper of Caddy's around
	// `protocols h1` is looked through (TestTunnel_BehindProxyProtocol and others of
	// the integration tests).
	{"client: TCP", nil, clientOver(openSocket("tcp"), asIs), none, can, reset, can, can, can},
	{"client: unix socket", nil, clientOver(openSocket("unix"), asIs), none, can, closed, can, can, copied},
	{"client: TLS", []string{"relay.tlsStream"}, clientOver(openSocket("tcp"), serverTLS), none, can, reset, can, can, copied},
	{"client: TLS over a unix socket", nil, clientOver(openSocket("unix"), serverTLS), none, can, cut, can, can, copied},
	{"client: PROXY protocol", nil, clientOver(openSocket("tcp"), proxied), none, can, reset, can, can, can},
	{"client: PROXY protocol over a unix socket", nil, clientOver(openSocket("unix"), proxied), none, can, closed, can, can, copied},
	{"client: TLS over PROXY protocol", nil, clientOver(openSocket("tcp"), proxied, serverTLS), none, can, reset, can, can, copied},
	{"client: TLS over PROXY protocol over a unix socket", nil, clientOver(openSocket("unix"), proxied, serverTLS), none, can, cut, can, can, copied},
	{"client: an unknown type", []string{"relay.CloseOnly"}, clientOver(openSocket("tcp"), hidden), none, both, closed, can, can, copied},
	{"client: TLS over an unknown type", nil, clientOver(openSocket("tcp"), hidden, serverTLS), none, can, cut, can, can, copied},
	{"client: stream of HTTP/2", []string{"clientend.Stream"}, openRequest(2), none, later, reset, can, none, copied},
	{"client: stream of HTTP/3", nil, openRequest(3), none, later, reset, can, none, copied},
}

// guarded is a connection and its peer.
type guarded struct {
	conn   net.Conn     // as it was dialed or taken over; nil for a request
	stream relay.Stream // as a side of a tunnel
	socket net.Conn     // of conn: what shows that something has come; nil for a stream of HTTP/2

	peer    io.ReadWriter
	below   *counting // what the peer reads below its TLS, if it has TLS over a socket
	release func()    // lets the handler of a request return, when the test has done its part
}

// within fails the test if f takes too long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(guardPatience):
		t.Fatalf("%s: waited in vain", what)
	}
}

func TestGuards(t *testing.T) {
	for _, row := range guardTable {
		t.Run(row.name, func(t *testing.T) {
			for guard, tc := range map[string]struct {
				want string
				see  func(t *testing.T, g *guarded) string
			}{
				"alive":          {row.look, seeAlive},
				"silent":         {row.look, seeSilent},
				"half-close":     {row.halfClose, seeHalfClose},
				"abort":          {row.abort, seeAbort},
				"read deadline":  {row.readBy, seeReadDeadline},
				"write deadline": {row.writeBy, seeWriteDeadline},
				"splice":         {row.splice, seeSplice},
			} {
				if tc.want == none {
					continue
				}
				t.Run(guard, func(t *testing.T) {
					g := row.open(t)
					within(t, guard, func() {
						if got := tc.see(t, g); got != tc.want {
							t.Errorf("%s; want: %s", got, tc.want)
						}
					})
				})
			}
		})
	}
}

// awaitSomething waits until what the peer has sent, or its end, has arrived.
func (g *guarded) awaitSomething(t *testing.T) {
	t.Helper()
	raw, err := g.socket.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err != syscall.EAGAIN && err != syscall.EINTR
	})
}

// seeAlive looks at a quiet connection, and at one on which something has come.
func seeAlive(t *testing.T, g *guarded) string {
	c := h1.NewConn(g.conn)
	quiet := c.Alive()
	_, _ = io.WriteString(g.peer, "H")
	spoilt := g.eventually(t, func() bool { return !c.Alive() })
	switch {
	case quiet && spoilt:
		return can
	case !quiet && spoilt && !c.CanBeLookedAt():
		return unused
	}
	return fmt.Sprintf("quiet: alive is %v; with a byte: dead is %v", quiet, spoilt)
}

func seeSilent(t *testing.T, g *guarded) string {
	c := h1.NewConn(g.conn)
	if err := c.Silent(); err != nil {
		return "not silent: " + err.Error()
	}
	_, _ = io.WriteString(g.peer, "H")
	if !c.CanBeLookedAt() {
		g.awaitSomething(t)
		if err := c.Silent(); err != nil {
			return "not silent: " + err.Error()
		}
		return unused
	}
	var err error
	if !g.eventually(t, func() bool { err = c.Silent(); return err != nil }) {
		return "silent with a byte at hand"
	}
	if _, ok := errors.AsType[*h1.ProtocolError](err); !ok {
		return err.Error()
	}
	return can
}

// eventually reports whether ok becomes true: at once where the arrival can be waited
// for, and in a while over HTTP/2, where a goroutine takes in what comes.
func (g *guarded) eventually(t *testing.T, ok func() bool) bool {
	if g.socket != nil {
		g.awaitSomething(t)
		return ok()
	}
	for deadline := time.Now().Add(guardPatience); !ok(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

func seeHalfClose(t *testing.T, g *guarded) string {
	if err := g.stream.CloseWrite(); err != nil {
		return err.Error()
	}
	b := make([]byte, 1)
	if _, ok := g.stream.(*clientend.Stream); ok {
		if _, err := io.WriteString(g.stream, "x"); err != nil {
			return err.Error()
		}
		if n, err := g.peer.Read(b); n != 1 {
			return fmt.Sprintf("the peer sees %v", err)
		}
		return later
	}
	if n, err := g.peer.Read(b); n != 0 || err != io.EOF {
		return fmt.Sprintf("the peer sees %q, %v", b[:n], err)
	}
	if _, err := io.WriteString(g.peer, "x"); err != nil {
		return both
	}
	if n, err := g.stream.Read(b); n != 1 {
		if errors.Is(err, net.ErrClosed) {
			return both
		}
		return err.Error()
	}
	return can
}

func seeAbort(_ *testing.T, g *guarded) string {
	relay.Reset(g.stream)
	if g.release != nil {
		g.release()
	}
	n, err := g.peer.Read(make([]byte, 1))
	switch {
	case n > 0:
		return "the peer gets data"
	case err != io.EOF:
		return reset
	case g.below == nil:
		return closed
	case g.below.n.Load() == 0:
		return cut
	}
	return "the peer sees an orderly end"
}

func seeReadDeadline(t *testing.T, g *guarded) string {
	s := g.stream.(interface{ SetReadDeadline(time.Time) error })
	read := make(chan error, 1)
	go func() { _, err := g.stream.Read(make([]byte, 1)); read <- err }()
	if err := s.SetReadDeadline(exchange.LongAgo); err != nil {
		return err.Error()
	}
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprint(err)
	}
	return can
}

// seeWriteDeadline writes until nothing more goes, and then sets the deadline.
func seeWriteDeadline(t *testing.T, g *guarded) string {
	s := g.stream.(interface{ SetWriteDeadline(time.Time) error })
	written := make(chan error, 1)
	go func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := g.stream.Write(b); err != nil {
				written <- err
				return
			}
		}
	}()
	if err := s.SetWriteDeadline(exchange.LongAgo); err != nil {
		return err.Error()
	}
	if err := <-written; !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprint(err)
	}
	return can
}

func seeSplice(t *testing.T, g *guarded) string {
	other := openSocket("tcp")(t)
	r := relay.New(g.stream, other.stream, relay.Config{})
	spliced := r.Spliced()
	r.End(relay.ReasonClosed)
	if spliced {
		return can
	}
	return copied
}
