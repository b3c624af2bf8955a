//go:build linux

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// testOrigin is an origin within the test. It understands requests in absolute
// form, so that it stands in for a proxy in front of it as well.
func testOrigin(t *testing.T) (o *origin, cert string) {
	t.Helper()
	pair, _, err := testcert.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o, err = newOrigin(pair)
	if err != nil {
		t.Fatal(err)
	}
	return o, pair.Cert
}

// run runs a load and returns its result without the times.
func run(l *load) loadResult {
	r := l.run()
	r.P50, r.P99 = 0, 0
	return r
}

// serveOn gives each connection to serve and returns the address.
func serveOn(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go acceptAll(ln, func(c net.Conn) {
		defer c.Close()
		serve(c)
	})
	return ln.Addr().String()
}

func TestRequestsAreCountedOnBothSides(t *testing.T) {
	for name, l := range map[string]load{
		"GET":        {N: 101, Conns: 4, Size: 1 << 10},
		"GET, large": {N: 3, Conns: 2, Size: 1<<20 + 1},
		"POST":       {N: 50, Conns: 4, Size: pattern.IDSize, Post: 64 << 10},
		"closing":    {N: 20, Conns: 4, Size: 1 << 10, Closes: true},
		"hosts":      {N: 20, Conns: 4, Size: 1 << 10, Hosts: 20, To: "any"},
		"paced":      {N: 50, Conns: 4, Size: 1 << 10, Do: "paced", Rate: 1e5},
		"gathered":   {N: 50, Conns: 1, Do: "gather", To: "gather"},
		"scattered":  {N: 50, Conns: 1, Do: "gather", To: "scatter"},
		"slow":       {N: 1, Conns: 1, Size: 1 << 20, SlowBytes: 1 << 10, SlowRate: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := testOrigin(t)
			l.Do, l.To = cmp.Or(l.Do, "requests"), o.addrs[cmp.Or(l.To, "http")]
			l.Proxy = strings.Replace(l.To, "0.0.0.0", "127.0.0.1", 1)
			if err := l.prepare(); err != nil {
				t.Fatal(err)
			}
			if r := run(&l); r != (loadResult{OK: l.N, Seen: l.N}) {
				t.Errorf("result %+v, want %d without errors", r, l.N)
			}
			seen := o.seen()
			seen.Kept = 0 // the connections of gather may or may not have ended
			if seen != (originSeen{Requests: l.N}) {
				t.Errorf("origin has seen %+v, want %d requests", seen, l.N)
			}
		})
	}
}

func TestTunnelsAreCountedOnBothSides(t *testing.T) {
	for _, test := range []struct {
		load
		tunnels int64
	}{
		{load{Do: "connects", N: 20, Conns: 4, To: "echo"}, 20},
		{load{Do: "pings", N: 50, Conns: 4, To: "echo"}, 4},
		{load{Do: "secure", N: 10, Conns: 2, To: "tls"}, 10},
		{load{Do: "bulk", N: 2, Conns: 2, To: "bulk", Size: 1<<20 + 1}, 2},
		{load{Do: "push", N: 2, Conns: 2, To: "sink", Size: 1<<20 + 1}, 2},
	} {
		t.Run(test.Do, func(t *testing.T) {
			o, cert := testOrigin(t)
			l := test.load
			l.To, l.Root = o.addrs[l.To], cert
			l.Proxy = serveOn(t, func(c net.Conn) { relay(c, l.To) })
			l.Bare = true
			if r := run(&l); r != (loadResult{OK: l.N, Seen: test.tunnels}) {
				t.Errorf("result %+v, want %d without errors", r, l.N)
			}
			if seen := o.seen(); seen != (originSeen{Tunnels: test.tunnels}) {
				t.Errorf("origin has seen %+v, want %d tunnels", seen, test.tunnels)
			}
		})
	}
}

// TestHostsAreDistinct finds hosts that are asked for twice, or are no loopback
// addresses.
func TestHostsAreDistinct(t *testing.T) {
	l := load{To: "0.0.0.0:80", Hosts: 100_000}
	seen := make(map[string]bool)
	for i := range l.Hosts {
		host := l.host(i)
		addr, err := netip.ParseAddrPort(host)
		if err != nil || !addr.Addr().IsLoopback() || addr.Port() != 80 || seen[host] {
			t.Fatalf("host %d is %s, %v; seen before: %t", i, host, err, seen[host])
		}
		seen[host] = true
	}
}

func TestSinkRefusesWrongBytes(t *testing.T) {
	o, _ := testOrigin(t)
	c, err := net.Dial("tcp", o.addrs["sink"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "4\nxxxx")
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("an answer of %d bytes, want none", n)
	}
	if seen := o.seen(); seen.Tunnels != 0 {
		t.Errorf("origin has seen %+v, want no tunnel", seen)
	}
}

// TestPacedRequestsWait has requests that are not due yet, and one that is late.
func TestPacedRequestsWait(t *testing.T) {
	o, _ := testOrigin(t)
	l := load{Do: "paced", Proxy: o.addrs["http"], To: o.addrs["http"], Conns: 4, N: 51, Size: 100}
	start := time.Now()
	l.clock = &schedule{start: start, every: time.Millisecond}
	if r := run(&l); r.OK != l.N {
		t.Errorf("result %+v, want %d", r, l.N)
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("51 requests at 1,000 a second have taken %v", took)
	}
	l.N, l.clock = 1, &schedule{start: time.Now().Add(-time.Hour)}
	if r := l.run(); r.P50 < 3.6e9 {
		t.Errorf("a request that is late by an hour has taken %v µs", r.P50)
	}
}

func TestPercentiles(t *testing.T) {
	var w worker
	for i := range 200 {
		w.took = append(w.took, time.Duration(200-i)*time.Millisecond)
	}
	if p50, p99 := percentiles([]worker{w, {}}); p50 != 100_000 || p99 != 198_000 {
		t.Errorf("%v and %v, want 100000 and 198000", p50, p99)
	}
	if p50, p99 := percentiles(nil); p50 != 0 || p99 != 0 {
		t.Errorf("%v and %v of nothing", p50, p99)
	}
}

// TestWrongAnswersAreErrors has a server that answers with what the test says.
func TestWrongAnswersAreErrors(t *testing.T) {
	const size = 100
	answer := func(line, fields string, body []byte) string {
		return fmt.Sprintf("%s\r\nContent-Length: %d\r\n%s\r\n%s", line, len(body), fields, body)
	}
	right := (&pattern.Body{ID: pattern.NoID}).Append(nil, size)
	wrong := bytes.Clone(right)
	wrong[size-1]++
	for _, test := range []struct{ name, answer, want string }{
		{"right", answer("HTTP/1.1 200 OK", "", right), ""},
		{"status", answer("HTTP/1.1 502 Bad Gateway", "", right), "status line"},
		{"byte", answer("HTTP/1.1 200 OK", "", wrong), "wrong byte"},
		{"length", answer("HTTP/1.1 200 OK", "", right[:size-1]), "length 99"},
		{"not kept", answer("HTTP/1.1 200 OK", "Connection: close\r\n", right), "close true"},
		{"chunked", answer("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", right), "Transfer-Encoding"},
		{"cut", answer("HTTP/1.1 200 OK", "", right)[:120], "ended within"},
		{"none", "", "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := serveOn(t, func(nc net.Conn) {
				if _, err := newConn(nc, smallBuffer).readHead(); err == nil {
					_, _ = nc.Write([]byte(test.answer))
				}
			})
			l := load{Do: "requests", Proxy: addr, To: addr, Conns: 1, N: 1, Size: size}
			r := run(&l)
			if test.want == "" {
				if r != (loadResult{OK: 1, Seen: 1}) {
					t.Errorf("result %+v, want no error", r)
				}
				return
			}
			if r.Errors != 1 || !strings.Contains(r.First, test.want) {
				t.Errorf("result %+v, want one error with %q", r, test.want)
			}
		})
	}
}

func TestRefusedConnectIsAnError(t *testing.T) {
	addr := serveOn(t, func(nc net.Conn) {
		if _, err := newConn(nc, smallBuffer).readHead(); err == nil {
			_, _ = nc.Write([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
		}
	})
	l := load{Do: "connects", Proxy: addr, To: addr, Conns: 1, N: 2}
	if r := l.run(); r.Errors != 2 || !strings.Contains(r.First, "403") {
		t.Errorf("result %+v, want two errors with 403", r)
	}
}

func TestOriginRefusesWrongBody(t *testing.T) {
	o, _ := testOrigin(t)
	c, err := net.Dial("tcp", o.addrs["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /16/%s HTTP/1.1\r\nContent-Length: 20\r\n\r\n%sxxxx", pattern.NoID, pattern.NoID)
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("an answer of %d bytes, want none", n)
	}
	if seen := o.seen(); seen.Requests != 0 {
		t.Errorf("origin has seen %+v, want no request", seen)
	}
}

func TestUnseenRequestsAreErrors(t *testing.T) {
	for _, test := range []struct{ got, want, errors int64 }{{10, 10, 0}, {8, 10, 2}, {11, 10, 1}} {
		r := loadResult{OK: 10}
		r.compare("seen", test.got, test.want)
		if r.Errors != test.errors || (r.First == "") != (test.errors == 0) {
			t.Errorf("%d seen of %d: %+v, want %d errors", test.got, test.want, r, test.errors)
		}
	}
}
