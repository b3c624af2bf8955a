package egress

import (
	"net/http"
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
	change := t.requestChange()
	if change == nil {
		return t.r.Header, options
	}
	header = t.r.Header.Clone()
	for _, name := range options {
		header.Del(name)
	}
	change(header, t.r)
	return header, nil
}

// changeResponse changes the header of a response on its way to the client.
func (t *transaction) changeResponse(header http.Header) {
	if t.route != nil && t.route.changes.response != nil {
		t.route.changes.response(header, t.r)
	}
}
