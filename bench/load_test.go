//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
)

// testOrigin is an origin within the test. It understands requests in absolute
// form, so that it stands in for a proxy in front of it as well.
func testOrigin(t *testing.T) *origin {
	t.Helper()
	o, err := newOrigin()
	if err != nil {
		t.Fatal(err)
	}
	return o
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
		"POST":       {N: 50, Conns: 4, Size: idSize, Post: 64 << 10},
		"slow":       {N: 1, Conns: 1, Size: 1 << 20, SlowBytes: 1 << 10, SlowRate: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOrigin(t)
			l.Do, l.Proxy, l.To = "requests", o.addrs["http"], o.addrs["http"]
			if r := l.run(); r != (loadResult{OK: l.N}) {
				t.Errorf("result %+v, want %d without errors", r, l.N)
			}
			if seen := o.seen(); seen != (originSeen{Requests: l.N}) {
				t.Errorf("origin has seen %+v, want %d requests", seen, l.N)
			}
		})
	}
}

func TestTunnelsAreCountedOnBothSides(t *testing.T) {
	for _, l := range []load{
		{Do: "connects", N: 20, Conns: 4, To: "echo"},
		{Do: "bulk", N: 2, Conns: 2, To: "bulk", Size: 1<<20 + 1},
	} {
		t.Run(l.Do, func(t *testing.T) {
			o := testOrigin(t)
			l.To = o.addrs[l.To]
			l.Proxy = serveOn(t, func(c net.Conn) { relay(c, l.To) })
			l.Bare = true
			if r := l.run(); r != (loadResult{OK: l.N}) {
				t.Errorf("result %+v, want %d without errors", r, l.N)
			}
			if seen := o.seen(); seen != (originSeen{Tunnels: l.N}) {
				t.Errorf("origin has seen %+v, want %d tunnels", seen, l.N)
			}
		})
	}
}

// TestWrongAnswersAreErrors has a server that answers with what the test says.
func TestWrongAnswersAreErrors(t *testing.T) {
	const size = 100
	answer := func(line, fields string, body []byte) string {
		return fmt.Sprintf("%s\r\nContent-Length: %d\r\n%s\r\n%s", line, len(body), fields, body)
	}
	right := (&body{id: noID}).append(nil, size)
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
			r := l.run()
			if test.want == "" {
				if r != (loadResult{OK: 1}) {
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
	o := testOrigin(t)
	c, err := net.Dial("tcp", o.addrs["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /16/%s HTTP/1.1\r\nContent-Length: 20\r\n\r\n%sxxxx", noID, noID)
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
