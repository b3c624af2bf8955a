package egress

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/h1"
)

// This file contains what a route changes of header fields.

// requestHeader is the header of an exchange as it leaves on its route, changed if the
// route wants that, and the names in it that do not leave because the client's
// Connection lists them. What the route has set, the client cannot take away.
func (t *transaction) requestHeader() (header http.Header, options connectionOptions) {
	for _, v := range t.r.Header["Connection"] {
		options = options.add(v)
	}
	options.complete()
	ops := t.requestOps()
	if ops == nil {
		return t.r.Header, options
	}
	header = t.r.Header.Clone()
	for _, name := range options {
		header.Del(name)
	}
	ops.ApplyTo(header, t.replacer())
	return header, nil
}

// connectFields are the fields that the route adds to the CONNECT request to an
// upstream. Those of the client's own CONNECT end here.
func (t *transaction) connectFields() []h1.Field {
	ops := t.requestOps()
	if ops == nil {
		return nil
	}
	header := make(http.Header)
	ops.ApplyTo(header, t.replacer())
	var fields []h1.Field
	for name, values := range header {
		for _, v := range values {
			if h1.ValidField(name, v) {
				fields = append(fields, h1.Field{Name: name, Value: v})
			}
		}
	}
	return fields
}

// changeResponse changes the header of a response on its way to the client.
func (t *transaction) changeResponse(header http.Header) {
	if t.route == nil || t.route.Headers == nil {
		return
	}
	if ops := responseOps(t.route.Headers); ops != nil {
		ops.ApplyTo(header, t.replacer())
	}
}

func (t *transaction) requestOps() *headers.HeaderOps {
	if t.route == nil || t.route.Headers == nil {
		return nil
	}
	return t.route.Headers.Request
}

func (t *transaction) replacer() *caddy.Replacer {
	repl, _ := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}
