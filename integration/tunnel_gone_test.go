package integration

import (
	"net/http"
	"testing"

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
