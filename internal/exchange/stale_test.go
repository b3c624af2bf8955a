package exchange

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// A new connection to an upstream that has ended, or spoken, before anything was
// written has cost nothing: any request may go elsewhere.
func TestConnectionThatEndsBeforeTheRequest(t *testing.T) {
	for name, greeting := range map[string]string{"ended": "", "spoke": "HTTP/1.1 400 x\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if conn, err := ln.Accept(); err == nil {
					_, _ = io.WriteString(conn, greeting)
					_ = conn.Close()
				}
			}()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); (err == nil) != (greeting != "") {
				t.Fatal(err)
			}
			g := oneUpstreamGroup(t)
			tr := newExchange(httptest.NewRequest(http.MethodPost, "http://a.example/", http.NoBody), target.Target{Host: "a.example", Port: 80})
			tr.Start, tr.BodyRead = time.Now(), true
			tr.Ways.To = core.Exit{Group: g}
			tr.Ways.Current.Member = g.Members()[0]
			c := h1.NewConn(conn)
			c.Begin()
			defer c.End()
			_, err = tr.roundTrip(c, []byte("POST http://a.example/ HTTP/1.1\r\n\r\n"), &watch{ctx: t.Context(), conn: c})
			stale, ok := errors.AsType[*retry.StaleError](err)
			if !ok || stale.Written {
				t.Fatalf("%v: nothing was written", err)
			}
			e := tr.ViaError(err)
			if !e.OwnFault() || !tr.WouldRetry(e) {
				t.Errorf("%v is not retried elsewhere: %+v", err, e)
			}
		})
	}
}

// oneUpstreamGroup is a group with one member.
func oneUpstreamGroup(t *testing.T) *upstream.Group {
	t.Helper()
	g, err := upstream.New(upstream.Config{
		Policy: new(selection.EWMA), Health: health.GroupConfig{UpstreamConfig: health.DefaultUpstreamConfig()},
		Balancing: upstream.Balancing{Retries: 1, RetryBudget: 1, TryDuration: time.Minute},
		Static:    []*upstream.Spec{{Addr: upstream.Address{Scheme: upstream.HTTP, Host: "127.0.0.1", Port: 1}, Weight: 1}},
		State:     new(upstream.State), Dialer: new(dial.Dialer), Context: t.Context(), Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}
