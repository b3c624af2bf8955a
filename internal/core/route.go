package core

import (
	"errors"
	"fmt"
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
	Deny  *Denied         // nil where it does not
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

// ErrNoRoute refuses what no route matches.
var ErrNoRoute = errors.New("no route matches")

// Denied refuses what a route denies.
type Denied struct {
	Route    int    // its number, from 1
	To       string // the group that could not serve it; "" where it is not the fallback that denies
	Matchers string // of the route, for people; "" where it matches everything
}

func (d *Denied) Error() string {
	text := fmt.Sprintf("route %d", d.Route)
	if d.Matchers != "" {
		text += " (" + d.Matchers + ")"
	}
	if d.To != "" {
		return "the fallback of " + text + " from group '" + d.To + "' denies it"
	}
	return text + " denies it"
}

// Targets of routes that are no groups.
const (
	ExitDirect = "direct"
	ExitDeny   = "deny"
)
