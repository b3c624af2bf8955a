package egress

import (
	"net/http"

	"github.com/caddy-egress/egress/internal/upstream"
)

// way is where the requests of a route leave.
type way struct {
	direct   *directWay // for what leaves directly
	to       exit
	fallback *exit // nil for none
	changes  changes
}

// exit is a target of a route.
type exit struct {
	deny  bool
	group *upstream.Group // nil for direct
}

// changes are what a route changes of header fields. Each is nil where nothing is
// changed, and is given the request that the fields are of, or that they answer.
type changes struct {
	request, response func(http.Header, *http.Request)
}

// router finds the way of a request.
type router interface {
	Route(*http.Request) (*way, error)
}

// chooseRoute finds the route of the request.
func (t *request) chooseRoute() (err error) {
	t.route, err = t.p.router.Route(t.r)
	return err
}
