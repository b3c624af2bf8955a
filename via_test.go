package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/upstream"
)

// A new connection to an upstream that has ended, or spoken, before anything was
// written has cost nothing: any request may go elsewhere.
func TestConnectionThatEndsBeforeTheRequest(t *testing.T) {
	h, _ := mustLoadWithApps(t, fmt.Sprintf(oneUpstream, ""))
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
			tr := throughGroup(t, h, "a.example:80")
			tr.HTTP.Method, tr.Use = "POST", upstream.Exchange
			tr.Ways.To = h.unrouted.way.To
			tr.Ways.Current = upstream.Attempt{Member: h.groups["default"].Members()[0]}
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
