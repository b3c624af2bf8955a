package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// parked is one side of a tunnel in which nothing happens.
type parked struct{ over chan struct{} }

func (p parked) Read([]byte) (int, error)    { <-p.over; return 0, io.EOF }
func (p parked) Write(b []byte) (int, error) { return len(b), nil }
func (parked) CloseWrite() error             { return nil }
func (parked) Close() error                  { return nil }

// parkTunnels opens tunnels of many users in the book of a handler, without sockets.
func parkTunnels(tb testing.TB, handler string, n int) {
	use, err := tunnels.Acquire(handler, zap.NewNop)
	if err != nil {
		tb.Fatal(err)
	}
	over, ended := make(chan struct{}), make(chan struct{}, n)
	for i := range n {
		slot, err := use.Take("", "", tunnels.Limits{})
		if err != nil {
			tb.Fatal(err)
		}
		r := relay.New(parked{over}, parked{over}, relay.Config{})
		slot.Follow(r, tunnels.Asked{
			Target: target.Target{Host: fmt.Sprintf("host-%d.example", i), Port: 443}, Major: 1,
			Client: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
			User:   fmt.Sprintf("user-%d", i%100), Via: &tunnels.Via{Group: "g", Upstream: "http://one.example:3128", ID: "0123456789ab"},
		}, netip.Addr{}, nil, time.Hour)
		moved := slot.Move()
		r.Start(func(relay.Result) { moved.Release(); ended <- struct{}{} })
	}
	tb.Cleanup(func() {
		close(over)
		for range n {
			<-ended
		}
		use.Release()
	})
}

// BenchmarkSnapshot asks a Caddy with 1,000 upstreams and 50,000 tunnels for all that there
// is to tell.
func BenchmarkSnapshot(b *testing.B) {
	site, admin := freeAddr(b), freeAddr(b)
	var egress strings.Builder
	egress.WriteString("name main\nallow_unauthenticated\n")
	for g := range 10 {
		fmt.Fprintf(&egress, "upstreams g%d {\n", g)
		for i := range 100 {
			fmt.Fprintf(&egress, "upstream http://user:pass@10.%d.0.%d:3128\n", g, i)
		}
		fmt.Fprintf(&egress, "}\nroute {\nmatch {\nhost g%d.test\n}\nto g%d\n}\n", g, g)
	}
	load(b, globals{admin: admin, grace: "2s", storage: b.TempDir()}.String()+"\n"+plainSite(site, "", egress.String()))
	parkTunnels(b, "main", 50_000)
	for _, path := range []string{"snapshot", "tunnels?limit=100", "upstreams"} {
		b.Run(path, func(b *testing.B) {
			var size int64
			for b.Loop() {
				resp, err := http.Get("http://" + admin + "/egress/" + path)
				if err != nil {
					b.Fatal(err)
				}
				size, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			b.ReportMetric(float64(size), "bytes/answer")
		})
	}
}
