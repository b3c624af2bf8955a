package core

import (
	"errors"
	"net/http"

	"github.com/caddy-egress/egress/internal/upstream"
)

// Route is where the requests of a route leave.
type Route struct {
	Direct   *Direct // for what leaves directly
	To       Exit
	Fallback *Exit // nil for none
	Changes  Changes
}

// Exit is a target of a route.
type Exit struct {
	Deny  bool
	Group *upstream.Group // nil for direct
}

// Changes are what a route changes of header fields. Each is nil where nothing is
// changed, and is given the request that the fields are of, or that they answer.
type Changes struct {
	Request, Response func(http.Header, *http.Request)
}

// Router finds the way of a request.
type Router interface {
	Route(*http.Request) (*Route, error)
}

// ChooseRoute finds the route of the request.
func (t *Request) ChooseRoute() (err error) {
	t.Route, err = t.Proxy.Router.Route(t.HTTP)
	return err
}

// ErrNoRoute and ErrDenied are refusals by routes.
var (
	ErrNoRoute = errors.New("no route matches")
	ErrDenied  = errors.New("a route denies it")
)

// Targets of routes that are no groups.
const (
	ExitDirect = "direct"
	ExitDeny   = "deny"
)
