package integration

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"
)

func init() {
	caddy.RegisterModule(lateFlush{})
	httpcaddyfile.RegisterHandlerDirective("egress_test_late_flush", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(lateFlush), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("egress_test_late_flush", httpcaddyfile.Before, "vars")
}

// lateFlush is a handler in front of egress whose response writer flushes when the
// client has gone, and not before.
type lateFlush struct{}

// flushing receives when one waits.
var flushing = make(chan struct{}, 16)

func (lateFlush) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.egress_test_late_flush", New: func() caddy.Module { return new(lateFlush) }}
}

func (*lateFlush) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (lateFlush) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(lateFlushWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, r}, r)
}

type lateFlushWriter struct {
	*caddyhttp.ResponseWriterWrapper
	r *http.Request
}

func (w lateFlushWriter) FlushError() error {
	flushing <- struct{}{}
	<-w.r.Context().Done()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// RFC 9113 §8.5: a stream that is reset while the answer to its CONNECT is on its
// way resets the connection to the origin, too.
func TestTunnel_ResetDuringAnswer_RFC9113_8_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{site: "egress_test_late_flush"})
		ended := make(chan error, 1)
		origin := newRawOrigin(t, func(oc *originConn) { ended <- oc.awaitEnd() })
		f := p.dialFrames(t)
		stream := f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
		await(t, flushing, "the answer")
		if err := f.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
		if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
			t.Errorf("the client's reset arrived as %v", err)
		}
	})
}

// A client that resets its tunnel, or whose connection ends, while what it has sent waits for
// an origin that has ended and reads nothing, keeps its tunnel for no longer than a look takes.
func TestTunnel_GoneBehindTheOriginsEnd(t *testing.T) {
	p := startUsual(t, mode{access: true})
	for _, tc := range []struct{ kind, how string }{{"h1", "reset"}, {"h1tls", "reset"}, {"h3", "reset"}, {"h3", "connection"}} {
		t.Run(tc.kind+" "+tc.how, func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.closeWrite()
				oc.hold(release)
			})
			c := p.client(t, tc.kind)
			tun := c.open(t, origin.addr)
			if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
				t.Fatalf("%q, %v", rest, err)
			}
			var sent atomic.Int64
			go func() {
				piece := make([]byte, 32<<10)
				for {
					n, err := tun.Write(piece)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			last := int64(-1)
			eventually(t, "nothing to be taken any more", func() bool {
				time.Sleep(200 * time.Millisecond)
				was := last
				last = sent.Load()
				return last > 0 && last == was
			})
			if tc.how == "reset" {
				tun.Abort()
			} else {
				_ = c.h3.CloseWithError(0x10c, "gone")
			}
			line := p.logs.access(t, "CONNECT", origin.addr)
			if got := line.str("egress.close_reason"); got != "client_error" {
				t.Errorf("closed as %q", got)
			}
		})
	}
}
