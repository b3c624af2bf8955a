package exchange

import (
	"net/http"
	"slices"

	"github.com/caddy-egress/egress/internal/h1"
)

// This file contains which fields of a trailer section are forwarded. What does not leave in
// a header does not leave behind a body either.

// requestTrailer is the trailer section of the request, as far as Go has kept it, as it
// leaves.
func (t *Exchange) requestTrailer() http.Header {
	if len(t.HTTP.Trailer) == 0 {
		return nil
	}
	options, own := t.endsHere(), t.ProxyFields()
	trailer := make(http.Header, len(t.HTTP.Trailer))
	for name, values := range t.HTTP.Trailer {
		if allowedInTrailer(name) && !options.has(name) && own[name] == nil {
			trailer[name] = slices.Clone(values)
		}
	}
	changeTrailer(trailer, t.guarded(t.RequestChange()), t.HTTP)
	return trailer
}

// responseTrailer is the trailer section of a response with the given head, as the client
// gets it.
func (t *Exchange) responseTrailer(fields []h1.Field, hd *h1.Head) http.Header {
	options := optionsOf(hd)
	trailer := make(http.Header, len(fields))
	for i := range fields {
		if f := &fields[i]; allowedInTrailer(f.Name) && !options.has(f.Name) {
			trailer[f.Name] = append(trailer[f.Name], f.Value)
		}
	}
	changeTrailer(trailer, t.responseChange(), t.HTTP)
	return trailer
}

// changeTrailer takes away and replaces in a trailer section what the route takes away and
// replaces in headers. What it sets or adds stands in the header already, and not here as
// well.
func changeTrailer(trailer http.Header, change func(http.Header, *http.Request), r *http.Request) {
	if change == nil || len(trailer) == 0 {
		return
	}
	set := make(http.Header)
	change(set, r)
	before := trailer.Clone()
	change(trailer, r)
	for name, values := range trailer {
		own, given := before[name], set[name]
		switch n := len(own); {
		case given == nil:
		case n > 0 && n < len(values) && slices.Equal(values[:n], own):
			trailer[name] = own // without what was added
		default:
			delete(trailer, name)
		}
	}
}

// allowedInTrailer reports whether a field may come after the body: not one that
// frames, routes, authenticates or describes the content (RFC 9110 §6.5.1).
func allowedInTrailer(name string) bool {
	if hopByHop(name) || essential(name) {
		return false
	}
	switch name {
	case "Trailer", "Www-Authenticate", "Age", "Expires", "Pragma", "Retry-After", "Vary", "Warning",
		"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", EarlyData:
		return false
	}
	return true
}
