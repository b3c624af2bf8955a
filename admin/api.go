package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/explain"
)

// This file contains the endpoints that this module adds to Caddy's admin API. They
// start before the apps, so they find handlers in a registry of the process.

func init() {
	caddy.RegisterModule(api{})
}

// api is the part of Caddy's admin API that is about egress.
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
type api struct{}

// CaddyModule returns the Caddy module information.
func (api) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.egress",
		New: func() caddy.Module { return new(api) },
	}
}

// Routes returns the endpoints.
func (a api) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: explainEndpoint, Handler: caddy.AdminHandlerFunc(a.explain)}}
}

const explainEndpoint = "/egress/explain"

// maxExplainBody is far more than any request head that Caddy takes.
const maxExplainBody = 1 << 20

func (api) explain(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return apiError(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed here; POST a request to explain", r.Method))
	}
	var asked explain.Request
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxExplainBody))
	body.DisallowUnknownFields()
	if err := body.Decode(&asked); err != nil {
		return apiError(http.StatusBadRequest, fmt.Errorf("request to explain: %w", err))
	}
	if _, err := body.Token(); err != io.EOF {
		return apiError(http.StatusBadRequest, errors.New("request to explain: something follows the JSON object"))
	}
	h, err := Handlers.Find(r.URL.Query().Get("handler"))
	if err != nil {
		return apiError(http.StatusNotFound, err)
	}
	e, err := h.Explain(r.Context(), &asked)
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(e)
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// Interface guards
var (
	_ caddy.Module      = api{}
	_ caddy.AdminRouter = api{}
)
