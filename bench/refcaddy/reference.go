//go:build linux

package main

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Reference))
	httpcaddyfile.RegisterHandlerDirective("bench_reference", parseReference)
	httpcaddyfile.RegisterDirectiveOrder("bench_reference", httpcaddyfile.Before, "respond")
}

// Reference forwards requests in absolute form the usual way: with
// http.Transport. It checks nothing and adds nothing, so that what egress is
// compared with is the cheapest that can be built from net/http's client.
type Reference struct {
	// HideReadFrom copies bodies through a pooled buffer and a plain Write.
	// Otherwise io.Copy finds the ReadFrom of net/http's writer.
	HideReadFrom bool `json:"hide_read_from,omitempty"`

	transport *http.Transport
}

// CaddyModule returns the Caddy module information.
func (*Reference) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.bench_reference",
		New: func() caddy.Module { return new(Reference) },
	}
}

func parseReference(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // directive name
	ref := new(Reference)
	if h.NextArg() {
		if h.Val() != "hide_read_from" || h.NextArg() {
			return nil, h.Err("bench_reference takes nothing, or hide_read_from")
		}
		ref.HideReadFrom = true
	}
	return ref, nil
}

// Provision sets up the transport, with enough idle connections for any load.
func (ref *Reference) Provision(caddy.Context) error {
	ref.transport = &http.Transport{
		MaxIdleConns:        8192,
		MaxIdleConnsPerHost: 8192,
		IdleConnTimeout:     5 * time.Minute,
		DisableCompression:  true,
	}
	return nil
}

// Cleanup closes the idle connections.
func (ref *Reference) Cleanup() error {
	ref.transport.CloseIdleConnections()
	return nil
}

// ServeHTTP forwards one request.
func (ref *Reference) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.Header.Del("Proxy-Connection")
	if r.ContentLength == 0 {
		out.Body = nil // Caddy wraps even an empty body, which would be sent in chunks
	}
	resp, err := ref.transport.RoundTrip(out)
	if err != nil {
		return caddyhttp.Error(http.StatusBadGateway, err)
	}
	defer resp.Body.Close()
	header := w.Header()
	for name, values := range resp.Header {
		header[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, err = ref.copy(w, resp.Body)
	return err
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

func (ref *Reference) copy(w http.ResponseWriter, body io.Reader) (int64, error) {
	if !ref.HideReadFrom {
		return io.Copy(w, body)
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, body, *buf)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Reference)(nil)
	_ caddy.CleanerUpper          = (*Reference)(nil)
	_ caddyhttp.MiddlewareHandler = (*Reference)(nil)
)
