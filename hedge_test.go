package egress

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
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
	asked := make(chan struct{}) // closed when the one that does not answer was asked
	parent := func(answer bool) uint16 {
		return serveConns(t, func(conn net.Conn) {
			br := bufio.NewReader(conn)
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			told <- r.Header.Get("X-Client")
			if answer {
				<-asked // or the attempt there would end before it has sent anything
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			} else {
				close(asked)
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
	tr := newIncoming(h, httptest.NewRecorder(), r)
	tr.Use, tr.Route, tr.Start = upstream.Tunnel, &route.way, time.Now()
	tr.Target = fixture.Target(t, "some.example:443")
	tr.observe()

	tun, err := tr.Connect()
	if err != nil {
		t.Fatal(err)
	}
	// As the handler and Caddy do when a tunnel is up.
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	repl.Set(caddyserver.UserPlaceholder, "alice")
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

// The probe of a destination that another attempt overtakes brings its result all the same,
// and until then no other one is sent: what a success through one member says of the
// destination it does not say of the other.
func TestHedgeOvertakesProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		want   []health.State // of the circuits of the destination, when the probe has ended
	}{
		"reached": {"HTTP/1.1 200 OK\r\n\r\n", nil},
		"failed":  {"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", []health.State{health.Open}},
	} {
		t.Run(name, func(t *testing.T) {
			probed, release := make(chan struct{}, 1), make(chan struct{})
			parent := func(answer func() string) uint16 {
				return serveConns(t, func(conn net.Conn) {
					br := bufio.NewReader(conn)
					if _, err := http.ReadRequest(br); err != nil {
						return
					}
					_, _ = conn.Write([]byte(answer()))
					_, _ = br.ReadByte() // until the end
				})
			}
			slow := parent(func() string {
				probed <- struct{}{}
				<-release
				return tc.answer
			})
			fast := parent(func() string { return "HTTP/1.1 200 OK\r\n\r\n" })
			h, _ := mustLoadWithApps(t, fmt.Sprintf(`{"destination_circuit":{"failures":2,"open_for":"10ms","max_open_for":"1h"},%s`,
				strings.TrimPrefix(hedgingConfig(slow, fast), "{")))
			g := h.groups["default"]
			for range 100 {
				g.Connected(time.Millisecond) // so that it is known what is slow
			}
			told := g.Destinations()
			states := func() (all []health.State) {
				for _, f := range told.Report() {
					all = append(all, f.Circuit)
				}
				return all
			}
			for range 2 {
				failed := told.About(fixture.Target(t, "some.example:443"), false)
				if err := failed.Take(g.Members()[0].Key(), health.ProbeLimit); err != nil {
					t.Fatal(err)
				}
				failed.Tell(failure.Refused)
			}

			connect := func() {
				t.Helper()
				r := httptest.NewRequest(http.MethodConnect, "http://some.example:443", http.NoBody)
				tr := newIncoming(h, httptest.NewRecorder(), r)
				tr.Use, tr.Route, tr.Start = upstream.Tunnel, &h.unrouted.way, time.Now()
				tr.Target = fixture.Target(t, "some.example:443")
				tun, err := tr.Connect()
				if err != nil {
					t.Fatal(err)
				}
				tun.Abandon()
				tun.Close()
			}
			for end := time.Now().Add(20 * time.Second); len(probed) == 0; connect() {
				if time.Now().After(end) {
					t.Fatal("no probe")
				}
			}
			if got := states(); !slices.Equal(got, []health.State{health.HalfOpen}) {
				t.Errorf("while the probe is under way: %v", got)
			}
			close(release)
			awaitNone(t, g)
			if got := states(); !slices.Equal(got, tc.want) {
				t.Errorf("when the probe has ended: %v, want %v", got, tc.want)
			}
		})
	}
}
