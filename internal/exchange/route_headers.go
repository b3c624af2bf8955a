package exchange

import (
	"net/http"
)

// This file contains what a route changes of header fields.

// requestHeader is the header of an exchange as it leaves on its route, changed if the
// route wants that, and the names in it that do not leave because the client's
// Connection lists them. What the route has set, the client cannot take away.
func (t *Exchange) requestHeader() (header http.Header, options connectionOptions) {
	for _, v := range t.HTTP.Header["Connection"] {
		options = options.add(v)
	}
	options.complete()
	change := t.RequestChange()
	if change == nil {
		return t.HTTP.Header, options
	}
	header = t.HTTP.Header.Clone()
	for _, name := range options {
		header.Del(name)
	}
	change(header, t.HTTP)
	return header, nil
}

// changeResponse changes the header of a response on its way to the client.
func (t *Exchange) changeResponse(header http.Header) {
	if t.Route != nil && t.Route.Changes.Response != nil {
		t.Route.Changes.Response(header, t.HTTP)
	}
}
