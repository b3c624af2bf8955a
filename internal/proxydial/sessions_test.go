package proxydial

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// A handshake gets the sessions that are its own, by its context.
func TestSessions(t *testing.T) {
	resumed := make(chan bool, 8)
	cfg := serverTLS("http/1.1") // one, since the keys of its tickets are
	f := listen(t, func(c net.Conn) {
		tc := tls.Server(c, cfg)
		if _, err := readHead(bufio.NewReader(tc)); err != nil {
			return
		}
		resumed <- tc.ConnectionState().DidResume
		_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\n\r\n")
	})
	type who struct{}
	caches := map[string]tls.ClientSessionCache{"alice": tls.NewLRUClientSessionCache(0), "bob": tls.NewLRUClientSessionCache(0)}
	d := newDialer(t, Config{
		Scheme: HTTPS, TLS: clientTLS(), Dial: dialTo(f.addr),
		Sessions: func(ctx context.Context, _ tls.ClientSessionCache) tls.ClientSessionCache {
			return caches[ctx.Value(who{}).(string)]
		},
	})
	for i, tc := range []struct {
		user string
		want bool
	}{{"alice", false}, {"bob", false}, {"alice", true}, {"bob", true}} {
		tn, err := d.DialTunnel(context.WithValue(t.Context(), who{}, tc.user), Target{Host: "origin.test", Port: 443}, Client{})
		if err != nil {
			t.Fatal(err)
		}
		_ = tn.Conn.Close()
		if got := <-resumed; got != tc.want {
			t.Errorf("%d: %s: resumed: %t", i, tc.user, got)
		}
	}
}
