package dnscache

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// An answer that takes longer than half of the time is still taken from the connection
// that the query was sent on first, which is used again.
func TestClientSlowAnswerOnOldConnection(t *testing.T) {
	for _, proto := range []string{"tcp", "tls"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t)
			s.Set("fast.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
			second, end := make(chan struct{}), make(chan struct{})
			var asked atomic.Int32
			s.Set("slow.test", dnstest.Records{Addrs: addrs("192.0.2.2"), TTL: 60, Instead: func(_, m *dns.Msg) []*dns.Msg {
				switch asked.Add(1) {
				case 1: // on the old connection
					select {
					case <-second:
						return []*dns.Msg{m}
					case <-end:
					}
				case 2: // beside it
					close(second)
					<-end
				}
				return nil
			}})
			t.Cleanup(func() { close(end) })
			c := newClient(t, s.Trust, protocols(s)[proto])
			if _, err := c.Lookup(t.Context(), "fast.test", IPv4); err != nil {
				t.Fatal(err)
			}
			c.servers[0].try = 4 * time.Second
			if got, err := c.Lookup(t.Context(), "slow.test", IPv4); err != nil || len(got.Addrs) != 1 {
				t.Errorf("%v, %v", got.Addrs, err)
			}
			made := s.Conns()
			if _, err := c.Lookup(t.Context(), "fast.test", IPv4); err != nil || s.Conns() != made {
				t.Errorf("%v; %d connections, %d before", err, s.Conns(), made)
			}
		})
	}
}
