package exchange

import (
	"io"
	"net"
	"testing"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// An upload that the peer's system has yet to take is seen, below TLS too, until it has; one
// without a socket, or without a body, is not.
func TestUpload_IsUnread(t *testing.T) {
	client, server := fixture.TCPEnds(t)
	n := 0
	for chunk, c := make([]byte, 64<<10), h1.NewConn(client); ; {
		m, err := c.WriteAtOnce(chunk)
		if n += m; err != nil {
			break // it takes no more
		}
	}
	for name, tc := range map[string]struct {
		conn net.Conn
		sent int
		want bool
	}{
		"unread":                {client, n, true},
		"unread, below a layer": {h1.NoteEOF(client), n, true},
		"nothing sent":          {client, 0, false},
		"no socket":             {struct{ net.Conn }{client}, n, false},
	} {
		u := &upload{conn: h1.NewConn(tc.conn)}
		u.sent.Store(int64(tc.sent))
		if got := u.isUnread(); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (*upload)(nil).isUnread() {
		t.Error("a request without a body is unread")
	}
	if _, err := io.CopyN(io.Discard, server, int64(n)); err != nil {
		t.Fatal(err)
	}
	u := &upload{conn: h1.NewConn(client)}
	u.sent.Store(int64(n))
	fixture.WaitFor(t, "read", func() bool { return !u.isUnread() })
}
