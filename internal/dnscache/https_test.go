package dnscache

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// open counts the connections that are open.
type open struct {
	mu sync.Mutex
	n  int
}

func (o *open) add(n int) {
	o.mu.Lock()
	o.n += n
	o.mu.Unlock()
}

func (o *open) now() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

type openConn struct {
	net.Conn
	once sync.Once
	o    *open
}

func (c *openConn) Close() error {
	c.once.Do(func() { c.o.add(-1) })
	return c.Conn.Close()
}

func (o *open) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	conn, err := dialPlain(ctx, network, to)
	if err != nil {
		return nil, err
	}
	o.add(1)
	return &openConn{Conn: conn, o: o}, nil
}

// A server that takes connections and says nothing costs nothing once the time of the
// questions is over.
func TestClientHungServerLeavesNothing(t *testing.T) {
	for _, scheme := range []string{"tcp", "tls", "https"} {
		t.Run(scheme, func(t *testing.T) {
			noLeaks(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close() // without an Accept: the kernel completes the connections
			server, err := ParseServer(scheme + "://" + ln.Addr().String() + map[string]string{"https": "/dns-query"}[scheme])
			if err != nil {
				t.Fatal(err)
			}
			var o open
			c, err := NewClient([]Server{server}, nil, o.dial, System{})
			if err != nil {
				t.Fatal(err)
			}
			c.servers[0].try = 200 * time.Millisecond
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					if _, err := c.Lookup(t.Context(), fmt.Sprint("n", i, ".test"), IPv4); err == nil {
						t.Error("an answer")
					}
				})
			}
			wg.Wait()
			await(t, func() bool { return o.now() == 0 })
		})
	}
}
