package egress

import (
	"net/http"
	"slices"

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

// connectFields are the fields of the CONNECT request to an upstream: the client's Via
// with our element behind it, by which each proxy on the way recognises a request that
// comes back to it, and what the route adds. All others of the client's own CONNECT end
// here.
func (t *transaction) connectFields() []h1.Field {
	via := t.r.Header["Via"]
	ops := t.requestOps()
	if ops == nil {
		return t.h.viaFields(via, versionIndex(t.r))
	}
	header := make(http.Header)
	if len(via) > 0 {
		header["Via"] = slices.Clone(via)
	}
	ops.ApplyTo(header, t.replacer())
	via = header["Via"]
	delete(header, "Via")
	var fields []h1.Field
	for name, values := range header {
		for _, v := range values {
			if h1.ValidField(name, v) {
				fields = append(fields, h1.Field{Name: name, Value: v})
			}
		}
	}
	return append(fields, t.h.viaFields(via, versionIndex(t.r))...)
}

// viaFields are the Via fields (RFC 9110 §7.6.3) of a CONNECT that we make for a request
// that was received with these, in the given version.
func (h *Handler) viaFields(received []string, version int) []h1.Field {
	fields := make([]h1.Field, 0, len(received)+1)
	for _, v := range received {
		if h1.ValidField("Via", v) {
			fields = append(fields, h1.Field{Name: "Via", Value: v})
		}
	}
	if !h.HideVia {
		fields = append(fields, h1.Field{Name: "Via", Value: h.via.request[version]})
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
