package exchange

import (
	"net/http"

	"github.com/caddy-egress/egress/internal/tracing"
)

// This file contains what a route changes of header fields.

// requestHeader is the header of an exchange as it leaves on its route, changed if the
// route wants that, and the names in it that do not leave because the client's
// Connection lists them, or because they tell of its trace and that is hidden or another one.
// What the route has set, the client cannot take away.
func (t *Exchange) requestHeader() (header http.Header, options connectionOptions) {
	options = t.endsHere()
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

// endsHere are the names of the client's fields that do not leave, in its header or its
// trailer section: those that its Connection lists (RFC 9110 §7.6.1), and those of its trace
// if the operator hides that.
func (t *Exchange) endsHere() (options connectionOptions) {
	for _, v := range t.HTTP.Header["Connection"] {
		options = options.add(v)
	}
	for _, name := range [...]string{tracing.ParentField, tracing.StateField} {
		if t.HidesTrace(name) {
			options = append(options, name)
		}
	}
	options.complete()
	return options
}

// changeResponse changes the header of a response on its way to the client. Where it takes
// Date away, the server does not make one up.
func (t *Exchange) changeResponse(header http.Header) {
	change := t.responseChange()
	if change == nil {
		return
	}
	if _, dated := header["Date"]; !dated {
		header["Date"] = []string{""} // the server's, which is still to come
	}
	change(header, t.HTTP)
	switch date, ok := header["Date"]; {
	case !ok:
		header["Date"] = nil
	case len(date) == 1 && date[0] == "":
		delete(header, "Date")
	}
}

// responseChange is what the route changes of the header of responses; nil for nothing.
func (t *Exchange) responseChange() func(http.Header, *http.Request) {
	if t.Route == nil {
		return nil
	}
	return t.guarded(t.Route.Changes.Response)
}

// guarded is a change of the route that may be called while another one is: the trailer
// section of a request is changed by the goroutine of the upload.
func (t *Exchange) guarded(change func(http.Header, *http.Request)) func(http.Header, *http.Request) {
	if change == nil {
		return nil
	}
	return func(header http.Header, r *http.Request) {
		t.Guard(func() { change(header, r) })
	}
}

// Guard runs what uses, or changes, what placeholders of the request are made of, while
// nothing else does that is guarded.
func (t *Exchange) Guard(f func()) {
	t.changing.Lock()
	defer t.changing.Unlock()
	f()
}
