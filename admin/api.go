package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/explain"
)

// This file contains the part of Caddy's admin API that this module adds. It starts before
// the apps, so it finds handlers in a registry of the process.

func init() {
	caddy.RegisterModule(api{})
}

// api is the part of Caddy's admin API that is about egress: what handlers are at the
// moment, for people and programs that look, under `/egress/`.
//
// `GET /egress/` lists the endpoints, and `/egress/openapi.json` describes them. Where
// there are several handlers, all are told of, and the query parameter `handler` selects
// one: by its name, or, where it has none, by the addresses of its server and its number
// there, as in `:8080#1`.
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
// Nothing is sent but the DNS questions that a request would ask.
type api struct{}

// CaddyModule returns the Caddy module information.
func (api) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.egress",
		New: func() caddy.Module { return new(api) },
	}
}

// Routes returns the endpoints. They are one route, so that what is wrong with a request
// is said in the same way everywhere.
func (a api) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: root, Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// serve answers a request with what its endpoint returns, as JSON.
func (api) serve(w http.ResponseWriter, r *http.Request) error {
	m, path, err := find(w, r)
	if err != nil {
		return err
	}
	c, err := newCall(w, r, m, path)
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	answer, err := m.serve(c)
	if err != nil {
		return err
	}
	if stream, ok := answer.(streamed); ok && r.Method != http.MethodHead {
		return stream(w)
	} else if ok {
		w.Header().Set("Content-Type", "text/event-stream")
		return nil
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = w.Write(append(body, '\n'))
	return err
}

func serveExplain(c *call) (any, error) {
	var asked explain.Request
	if err := c.decode("request to explain", &asked); err != nil {
		return nil, err
	}
	h, err := c.handler()
	if err != nil {
		return nil, err
	}
	e, err := h.Explain(c.r.Context(), &asked)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, err)
	}
	return e, nil
}

// apiError is an error with the status of its answer. One that has a status keeps it.
func apiError(status int, err error) error {
	if _, ok := errors.AsType[caddy.APIError](err); ok {
		return err
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// Interface guards
var (
	_ caddy.Module      = api{}
	_ caddy.AdminRouter = api{}
)
