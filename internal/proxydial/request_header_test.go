package proxydial

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-egress/egress/internal/h1"
)

// Fields of one CONNECT stand beside those of the configuration, over HTTP/2 too, and
// what frames a message or is ours cannot be among them.
func TestRequestHeader(t *testing.T) {
	saw := make(chan http.Header, 2)
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		saw <- r.Header.Clone()
		echoTunnel(w, r)
	})
	cfg := h2Config(p.addr)
	cfg.Header = []h1.Field{{Name: "X-Zone", Value: "de"}}
	d := newDialer(t, cfg)
	to := testTarget
	to.Header = []h1.Field{{Name: "X-Session", Value: "7"}}
	for _, want := range []string{"7", ""} {
		tn, err := d.DialTunnel(testContext(t), to, Client{})
		if err != nil {
			t.Fatal(err)
		}
		if tn.Protocol != "h2" {
			t.Errorf("over %s", tn.Protocol)
		}
		if h := <-saw; h.Get("X-Session") != want || h.Get("X-Zone") != "de" {
			t.Errorf("fields %v, want the session %q", h, want)
		}
		tn.Conn.Close()
		to.Header = nil
	}
	for _, f := range []h1.Field{{Name: "Host", Value: "evil.test"}, {Name: "X\r\nY", Value: "z"}, {Name: "X", Value: "a\r\nb"}} {
		to.Header = []h1.Field{f}
		_, err := d.DialTunnel(testContext(t), to, Client{})
		if _, ok := errors.AsType[*ArgumentError](err); !ok {
			t.Errorf("%q: %v", f, err)
		}
	}
}
