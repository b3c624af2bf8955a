package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(panicking{})
	httpcaddyfile.RegisterHandlerDirective("egress_test_panic", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(panicking), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("egress_test_panic", httpcaddyfile.Before, "vars")
}

// panicking is a handler in front of egress whose response writer panics in the
// method that the request's field X-Panic names.
type panicking struct{}

func (panicking) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.egress_test_panic", New: func() caddy.Module { return new(panicking) }}
}

func (*panicking) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (panicking) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if in := r.Header.Get("X-Panic"); in != "" {
		w = panickingWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, in}
	}
	return next.ServeHTTP(w, r)
}

type panickingWriter struct {
	*caddyhttp.ResponseWriterWrapper
	in string
}

func (w panickingWriter) meet(method string) {
	if w.in == method {
		panic("the test's " + method)
	}
}

func (w panickingWriter) WriteHeader(status int) {
	w.meet("WriteHeader")
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w panickingWriter) Write(b []byte) (int, error) {
	w.meet("Write")
	return w.ResponseWriterWrapper.Write(b)
}

func (w panickingWriter) FlushError() error {
	w.meet("FlushError")
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// expectBroken fails the test if the response of a writer that panicked looks
// whole.
func expectBroken(t *testing.T, a answer) {
	t.Helper()
	if a.err == nil && a.bodyErr == nil {
		t.Errorf("got %d %q and no error", a.StatusCode, a.body)
	}
}

// A response writer that panics, in another module, costs its request and
// nothing else: the connection to the origin closes and is given back.
func TestPanic_WriterGivesConnectionBack(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{site: "egress_test_panic", egress: usual + "transport {\n max_conns_per_host 1\n pending_timeout 3s\n}\n"})
		before := ours()
		for _, in := range []string{"WriteHeader", "Write", "FlushError"} {
			for _, method := range []string{"GET", "POST"} {
				if t.Failed() {
					return
				}
				t.Run(in+" "+method, func(t *testing.T) {
					ended := make(chan error, 16)
					origin := newRawOrigin(t, func(oc *originConn) {
						for oc.request().method == http.MethodOptions {
							oc.ok("ok")
						}
						oc.send("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
						if in != "FlushError" {
							oc.send("begin")
						}
						ended <- oc.awaitEnd()
					})
					eachClient(t, p, func(t *testing.T, c *client) {
						var body io.Reader
						if method == "POST" {
							body = strings.NewReader("hello")
						}
						r := c.newRequest(t, method, origin.url("/"), body)
						r.Header.Set("X-Panic", in)
						expectBroken(t, await(t, c.goTry(r), "the end"))
						await(t, ended, "the end of the origin's connection")
						c = p.client(t, c.kind)
						c.do(t, c.newRequest(t, "OPTIONS", origin.url("/"), nil)).expect(t, 200, "ok")
					})
				})
			}
		}
		awaitIdle(t, before)
	})
}

// The same while the upload waits for an origin that does not read.
func TestPanic_WriterDuringUpload(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{site: "egress_test_panic"})
		before := ours()
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.head()
			oc.send("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nbegin")
			<-oc.closed
		})
		answers := map[string]<-chan answer{}
		for _, in := range []string{"WriteHeader", "Write"} {
			for _, kind := range clientKinds {
				for _, length := range []int64{-1, 1 << 40} {
					c := p.client(t, kind)
					r := c.newRequest(t, "POST", origin.url("/"), zeros{})
					r.ContentLength = length
					r.Header.Set("X-Panic", in)
					answers[fmt.Sprintf("%s on %s, length %d", in, kind, length)] = c.goTry(r)
				}
			}
		}
		for name, result := range answers {
			expectBroken(t, await(t, result, "the end of "+name))
		}
		awaitIdle(t, before)
	})
}
