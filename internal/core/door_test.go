package core_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains a door of another kind: no HTTP server, no Caddy, no writer.

func init() { listening.Hide() } // origins of these tests listen in this process

// alice asks from an address.
type alice struct{}

func (alice) IP() string   { return "192.0.2.1" }
func (alice) User() string { return "alice" }

// direct routes everything directly.
type direct struct{ way core.Route }

func (d *direct) Route(*http.Request) (*core.Route, error) { return &d.way, nil }

func newProxy(t *testing.T) *core.Proxy {
	t.Helper()
	access, err := acl.New([]acl.Rule{{Subjects: []string{"127.0.0.0/8"}, Allow: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rules := fixture.FixedRules(access)
	way := &core.Direct{
		Dialer: &dial.Dialer{
			Access: rules, Timeout: time.Minute, DialAddr: dial.ToAddr, Names: dial.NewNames(nil),
			Self: self.New(self.Config{
				Usage:  func(string, string) int { return 0 },
				Active: func() <-chan struct{} { return nil },
			}),
		},
		Circuits: destination.New(health.CircuitConfig{Failures: 2, Window: time.Minute, OpenFor: time.Second, MaxOpenFor: time.Minute}, false).Path("", zap.NewNop()),
	}
	book, err := tunnels.Acquire(t.Name(), zap.NewNop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(book.Release)
	p := &core.Proxy{
		Access: rules, Direct: way, Router: &direct{core.Route{Direct: way}},
		Pool:    origin.New(connpool.Config{MaxIdle: 8, MaxIdlePerKey: 8, IdleTimeout: time.Minute, PendingTimeout: time.Minute, DialTimeout: time.Minute}, 1, 0),
		Budget:  retry.NewBudget(1, 1),
		Tunnels: book, Limits: tunnels.Limits{PerUser: 1}, CloseDelay: time.Minute,
		Via: core.NewVia("test"), Logger: zap.NewNop(), Limited: new(core.LimitLog),
	}
	t.Cleanup(p.Pool.Close)
	return p
}

// ask makes a request for a destination, as a door does that knows who asks.
func ask(t *testing.T, p *core.Proxy, use upstream.Use, dest string) *core.Request {
	t.Helper()
	to, err := target.ParseAuthority(dest)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: http.MethodConnect, Host: dest, URL: &url.URL{Host: dest}, Header: make(http.Header), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if use == upstream.Exchange {
		r.Method = http.MethodGet
	}
	req := &core.Request{
		Proxy: p, Client: alice{}, HTTP: r.WithContext(t.Context()), Start: time.Now(),
		Use: use, Target: to, BodyRead: true,
	}
	if err := req.ChooseRoute(); err != nil {
		t.Fatal(err)
	}
	return req
}

func serve(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// A tunnel is opened, limited, relayed and accounted for behind a door that is none of
// HTTP's.
func TestAnotherDoor_Tunnel(t *testing.T) {
	p := newProxy(t)
	echo := serve(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	req := ask(t, p, upstream.Tunnel, echo)
	tun, err := req.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	_, err = ask(t, p, upstream.Tunnel, echo).Connect()
	if failure.Of(err) != failure.Limit {
		t.Errorf("a second one of the user: %v", err)
	}
	client, near := tcpPair(t)
	ended := make(chan relay.Result, 1)
	rel := tun.Relay(near, []byte("early "))
	go func() { ended <- tun.Run(rel) }()
	if _, err := client.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite()
	got, err := io.ReadAll(client)
	if err != nil || string(got) != "early bytes" {
		t.Errorf("%q, %v", got, err)
	}
	if result := <-ended; result.BytesUp != 11 || result.BytesDown != 11 || req.Outcome.BytesUp != 11 || req.Outcome.CloseReason == "" {
		t.Errorf("%+v, %+v", result, req.Outcome)
	}
	tun.Close()
	if n := p.Tunnels.Value.Report().Tunnels; n != 0 {
		t.Errorf("%d tunnels are counted", n)
	}
}

func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// An exchange gets its connection, pooled and limited, and its failures are named.
func TestAnotherDoor_Exchange(t *testing.T) {
	p := newProxy(t)
	site := serve(t, func(c net.Conn) {
		for br := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.Host), r.Host)
		}
	})
	for _, reused := range []bool{false, true} {
		req := ask(t, p, upstream.Exchange, site)
		var body string
		err := req.OverWays(func() (err error) {
			body, err = get(req)
			return err
		})
		req.Held.LetGo()
		req.Conclude(err)
		if err != nil || body != site || req.Outcome.Reused != reused || req.Outcome.Remote.String() != "127.0.0.1" {
			t.Errorf("%q, %v, %+v", body, err, req.Outcome)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // nobody is there
	req := ask(t, p, upstream.Exchange, ln.Addr().String())
	req.HTTP = req.HTTP.WithContext(ctx)
	err = req.OverWays(func() error {
		_, err := get(req)
		return err
	})
	if req.Conclude(err); req.Outcome.Failure != failure.Refused || core.RetryAfter(err) != 0 {
		t.Errorf("%v, %+v", err, req.Outcome)
	}
}

// get is the simplest exchange on a connection of the pool.
func get(req *core.Request) (body string, err error) {
	l, err := req.Acquire(false)
	if err != nil {
		return "", err
	}
	c := l.Conn().Conn
	c.Begin()
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", req.Target); err != nil {
		return "", err
	}
	hd := new(h1.Head)
	if err := c.ReadHead(hd, 1<<16); err != nil {
		return "", err
	}
	if _, err := c.Frame(hd, http.MethodGet); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c.Body())
	if c.End() {
		l.Release(0)
	} else {
		l.Discard()
	}
	return string(text), err
}
