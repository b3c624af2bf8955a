package admin

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how a request to the API finds what serves it.

// endpoint is a path of the API, and what may be done there.
type endpoint struct {
	path    string // below root; {name} stands for one segment
	methods []method
}

// method is what one HTTP method does at an endpoint.
type method struct {
	name   string // GET stands for HEAD too
	does   string // in one sentence, for people
	params []param
	body   any // a value of the type that it takes; nil for none
	answer any // a value of the type that it returns
	serve  func(*call) (any, error)
}

// root is the path that all endpoints are below.
const root = "/egress/"

// match reports whether the endpoint is meant by a path, and what stands there for the
// names in its own.
func (e *endpoint) match(segments []string) (values map[string]string, ok bool) {
	own := strings.Split(e.path, "/")
	if len(own) != len(segments) {
		return nil, false
	}
	for i, name := range own {
		switch {
		case strings.HasPrefix(name, "{"):
			if segments[i] == "" {
				return nil, false
			}
			if values == nil {
				values = make(map[string]string, 1)
			}
			values[strings.Trim(name, "{}")] = segments[i]
		case name != segments[i]:
			return nil, false
		}
	}
	return values, true
}

// method returns what a method does, nil if nothing.
func (e *endpoint) method(name string) *method {
	if name == http.MethodHead {
		name = http.MethodGet
	}
	for i := range e.methods {
		if e.methods[i].name == name {
			return &e.methods[i]
		}
	}
	return nil
}

// allowed are the methods that there are, as the Allow field has them.
func (e *endpoint) allowed() string {
	var names []string
	for _, m := range e.methods {
		if names = append(names, m.name); m.name == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// find returns what serves a request, and the values in its path. An error is for who asks.
func find(w http.ResponseWriter, r *http.Request) (*method, map[string]string, error) {
	path, below := strings.CutPrefix(r.URL.EscapedPath(), root)
	segments := strings.Split(path, "/")
	for i, s := range segments {
		text, err := url.PathUnescape(s)
		below = below && err == nil
		segments[i] = text
	}
	for i := range endpoints {
		e := &endpoints[i]
		values, ok := e.match(segments)
		if !ok || !below {
			continue
		}
		if m := e.method(r.Method); m != nil {
			return m, values, nil
		}
		w.Header().Set("Allow", e.allowed())
		return nil, nil, apiError(http.StatusMethodNotAllowed,
			fmt.Errorf("method %s is not allowed at %s%s; allowed: %s", plaintext.Printable(r.Method), root, e.path, e.allowed()))
	}
	return nil, nil, apiError(http.StatusNotFound,
		fmt.Errorf("there is no endpoint '%s'; GET %s lists the endpoints", plaintext.Printable(r.URL.Path), root))
}
