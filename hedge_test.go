package egress

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/upstream"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// The slower of two attempts to open a tunnel uses nothing of what Caddy keeps of the
// request: the handler writes to it meanwhile, and is done before that attempt is. The
// race detector tells.
func TestHedgeUsesNothingOfTheRequest(t *testing.T) {
	told := make(chan string, 2) // X-Client of each CONNECT
	parent := func(answer bool) uint16 {
		return serveConns(t, func(conn net.Conn) {
			br := bufio.NewReader(conn)
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			told <- r.Header.Get("X-Client")
			if answer {
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			}
			_, _ = br.ReadByte() // until the end
		})
	}
	h, _ := mustLoadWithApps(t, hedgingConfig(parent(false), parent(true)))
	g := h.groups["default"]
	for range 100 {
		g.Connected(time.Millisecond) // so that it is known what is slow
	}

	r := httptest.NewRequest(http.MethodConnect, "http://some.example:443", http.NoBody)
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, httptest.NewRecorder(), new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), "team", "blue")
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
	route := *h.unrouted
	route.Headers = &headers.Handler{Request: &headers.HeaderOps{Set: http.Header{
		"X-Client": {"{http.vars.team} {http.vars.client_ip} {http.egress.group}"},
	}}}
	route.way.Changes = headerChanges(route.Headers)
	tr := newTransaction(h, httptest.NewRecorder(), r)
	tr.Use, tr.Route, tr.Start = upstream.Tunnel, &route.way, time.Now()
	tr.Target = fixture.Target(t, "some.example:443")
	tr.observe()

	tun, err := tr.Connect()
	if err != nil {
		t.Fatal(err)
	}
	// As the handler and Caddy do when a tunnel is up.
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	repl.Set(userPlaceholder, "alice")
	tr.Outcome.Group, tr.Outcome.CloseReason = "", "client"
	tr.HTTP = tr.HTTP.WithContext(context.Background())
	tun.Abandon()
	tun.Close()
	for range 2 {
		if got := <-told; got != "blue 192.0.2.1 default" {
			t.Errorf("X-Client: %s", got)
		}
	}
	awaitNone(t, g)
}

func hedgingConfig(first, second uint16) string {
	const member = `{"url":"http://127.0.0.1:%d","local_addresses":["127.0.0.1","127.0.0.2"],"local_address_pick":"user_hash"}`
	return fmt.Sprintf(`{"groups":{"default":{"upstreams":[`+member+`,`+member+`],`+
		`"load_balancing":{"selection_policy":{"policy":"first"},"hedge":0.6}}}}`, first, second)
}

// awaitNone waits until all attempts through a group have ended.
func awaitNone(t *testing.T, g *upstream.Group) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		n := int64(0)
		for _, m := range g.Members() {
			n += m.Health.Tunnels()
		}
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d attempts go on", n)
		}
	}
}
