package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// source is a side of a tunnel that sends so many bytes, and then waits for its end.
type source struct {
	bytes chan int
	over  chan struct{}
}

func (s source) Read(b []byte) (int, error) {
	select {
	case n := <-s.bytes:
		return min(n, len(b)), nil
	case <-s.over:
		return 0, io.EOF
	}
}
func (source) Write(b []byte) (int, error) { return len(b), nil }
func (source) CloseWrite() error           { return nil }
func (source) Close() error                { return nil }

// Tunnels are selected by whatever is known of them, and come in the order that is asked for.
func TestTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		use, err := tunnels.Acquire("test", zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		over, ended := make(chan struct{}), make(chan struct{})
		open := func(a tunnels.Asked, bytes int) {
			slot, err := use.Take("", "", tunnels.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			client := source{make(chan int, 1), over}
			r := relay.New(client, source{nil, over}, relay.Config{})
			slot.Follow(r, a, netip.Addr{}, nil, time.Hour)
			moved := slot.Move()
			r.Start(func(relay.Result) { moved.Release(); ended <- struct{}{} })
			if bytes > 0 {
				client.bytes <- bytes
			}
			time.Sleep(time.Minute)
		}
		via := &tunnels.Via{Group: "g", Upstream: "http://one.example:3128", ID: "abc"}
		open(tunnels.Asked{User: "alice", Client: netip.MustParseAddr("10.0.0.1"), Target: target.Target{Host: "a.example.com", Port: 443}}, 300)
		open(tunnels.Asked{User: "bob", Client: netip.MustParseAddr("10.0.0.2"), Target: target.Target{Host: "example.com", Port: 80}, Via: via}, 100)
		open(tunnels.Asked{User: "alice", Client: netip.MustParseAddr("2001:db8::1"), Target: target.Target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 443}}, 200)
		books := []*tunnels.Book{use.Value}
		var first uint64
		each(books, func(e tunnels.Entry, _ carried) {
			if first == 0 || e.ID() < first {
				first = e.ID()
			}
		})
		for query, want := range map[string][]uint64{
			"":                               {0, 1, 2}, // none has a rate any more
			"sort=age":                       {0, 1, 2},
			"sort=bytes":                     {0, 2, 1},
			"user=alice":                     {0, 2},
			"client=10.0.0.0/8":              {0, 1},
			"client=::ffff:10.0.0.0/104":     {0, 1},
			"client=2001:db8::1":             {2},
			"target=example.com":             {1},
			"target=EXAMPLE.com:80":          {1},
			"target=example.com:443":         nil,
			"target=*.example.com":           {0, 1},
			"target=192.0.2.1":               {2},
			"upstream=abc":                   {1},
			"upstream=one.example:3128":      {1},
			"upstream=other.example:3128":    nil,
			"min_bytes=200&sort=bytes":       {0, 2},
			"min_age=90s":                    {0, 1},
			"sort=bytes&limit=1":             {0},
			"user=alice&min_age=90s&limit=5": {0},
		} {
			r := httptest.NewRequest(http.MethodGet, "/egress/tunnels?"+query, nil)
			m, path, err := find(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newCall(nil, r, m, path)
			if err != nil {
				t.Fatal(query, err)
			}
			filter, err := c.tunnelFilter()
			if err != nil {
				t.Fatal(query, err)
			}
			found := tunnelRanking{filter: filter, by: asked[string](c, "sort"), limit: c.limit(), now: time.Now()}
			each(books, found.add)
			var got []uint64
			for _, tunnel := range found.list().Items {
				got = append(got, tunnel.ID-first)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", query, got, want)
			}
		}
		users := make(userTally)
		each(books, users.add)
		if all := users.list(10); all.Total != 2 || all.Items[0].Name != "alice" || all.Items[0].Tunnels != 2 || all.Items[0].BytesUp != 500 {
			t.Errorf("%+v", all)
		}
		close(over)
		for range 3 {
			<-ended
		}
		use.Release()
	})
}

// What is wrong with a parameter is said.
func TestParameters(t *testing.T) {
	for query, want := range map[string]string{
		"client=10.0.0.0/33":   "query parameter 'client': '10.0.0.0/33' is not an IP address or a network such as 10.0.0.0/8",
		"client=::ffff:0:0/90": "query parameter 'client': '::ffff:0:0/90' is not an IP address or a network such as 10.0.0.0/8",
		"min_age=90":           "query parameter 'min_age': '90' is not a duration such as 90s or 1h30m",
		"min_age=-1s":          "query parameter 'min_age': '-1s' is not a duration such as 90s or 1h30m",
		"min_bytes=1k":         "query parameter 'min_bytes': '1k' is not a number of bytes",
		"sort=size":            "query parameter 'sort': 'size' is not one of rate, bytes, age",
		"limit=10001":          "query parameter 'limit': '10001' is not a number from 1 to 10000",
		"user=":                "query parameter 'user': '' is not a text",
	} {
		r := httptest.NewRequest(http.MethodGet, "/egress/tunnels?"+query, nil)
		m, path, err := find(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newCall(nil, r, m, path); err == nil || err.Error() != want {
			t.Errorf("%s: %v", query, err)
		}
	}
}
