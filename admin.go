package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the endpoints that this module adds to Caddy's admin API. They
// start before the apps, so they find handlers in a registry of the process.

func init() {
	caddy.RegisterModule(adminAPI{})
}

// registry holds the handlers that are provisioned, in the order in which they were.
type registry struct {
	mu      sync.Mutex
	entries []*Handler // guarded by mu
}

// handlers are those of this process that serve, or are about to.
var handlers registry

// add takes a handler in, until the function that it returns is called.
func (r *registry) add(h *Handler) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, h)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.entries = slices.DeleteFunc(r.entries, func(e *Handler) bool { return e == h })
	}
}

// byPlace returns the handlers by the place at which they serve. While a reload is
// under way there are two at a place; the one that serves still is the older.
func (r *registry) byPlace() (found map[string]*Handler, places []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found = make(map[string]*Handler)
	for _, h := range r.entries {
		if place := h.place(); found[place] == nil {
			found[place] = h
			places = append(places, place)
		}
	}
	return found, places
}

// after returns the handler that takes over at the place of h; nil if there is none.
func (r *registry) after(h *Handler) *Handler {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := slices.Index(r.entries, h); at >= 0 {
		for _, e := range r.entries[at+1:] {
			if e.place() == h.place() {
				return e
			}
		}
	}
	return nil
}

// place is what people know a handler by: its name, or the addresses of its server,
// and which of the handlers there it is, counted from 1: `:8080#1`.
func (h *Handler) place() string { return h.proxy.Tunnels.Key }

// find returns the handler at a place. Addresses without a number will do where they
// have one handler, and no place at all where there is one handler in all.
func (r *registry) find(place string) (*Handler, error) {
	found, places := r.byPlace()
	var matching []string
	for _, p := range places {
		if server, _, _ := strings.Cut(p, "#"); place == "" || place == p || place == server {
			matching = append(matching, p)
		}
	}
	switch {
	case len(matching) == 1:
		return found[matching[0]], nil
	case len(places) == 0:
		return nil, errors.New("there is no egress handler in the configuration")
	case len(matching) == 0:
		return nil, fmt.Errorf("there is no egress handler '%s'; there are: %s", plaintext.Escaped(place), strings.Join(places, ", "))
	}
	return nil, fmt.Errorf("say which egress handler is meant: %s", strings.Join(matching, ", "))
}

// adminAPI is the part of Caddy's admin API that is about egress.
//
// `POST /egress/explain` tells what would become of a request, without sending it.
// The README has an example of what it answers. Its body is a JSON object:
//
// Key | Value
// ----|------
// `url` | of an exchange, in absolute form
// `target` | `host:port` of a tunnel, instead of `url`
// `method` | default `GET` with `url`, and always `CONNECT` with `target`
// `user`, `session` | who asks, taken as given; default nobody
// `client_ip` | whence; default `127.0.0.1`
// `headers` | an object of lists of strings
//
// The query parameter `handler` says which handler is meant, where there are several:
// its name, or, where it has none, the addresses of its server and its number there, as
// in `:8080#1`.
//
// Nothing is sent but the DNS questions that a request would ask.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.egress",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the endpoints.
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: explainEndpoint, Handler: caddy.AdminHandlerFunc(a.explain)}}
}

const explainEndpoint = "/egress/explain"

// maxExplainBody is far more than any request head that Caddy takes.
const maxExplainBody = 1 << 20

func (adminAPI) explain(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return apiError(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed here; POST a request to explain", r.Method))
	}
	var asked explainRequest
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxExplainBody))
	body.DisallowUnknownFields()
	if err := body.Decode(&asked); err != nil {
		return apiError(http.StatusBadRequest, fmt.Errorf("request to explain: %w", err))
	}
	if _, err := body.Token(); err != io.EOF {
		return apiError(http.StatusBadRequest, errors.New("request to explain: something follows the JSON object"))
	}
	h, err := handlers.find(r.URL.Query().Get("handler"))
	if err != nil {
		return apiError(http.StatusNotFound, err)
	}
	e, err := h.explain(r.Context(), &asked)
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(e)
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// Interface guards
var (
	_ caddy.Module      = adminAPI{}
	_ caddy.AdminRouter = adminAPI{}
)
