package admin

import (
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains how what is remembered of destinations and names is forgotten.

// Forgotten is how much was.
type Forgotten struct {
	Forgotten int `json:"forgotten" doc:"How many entries were forgotten, in all handlers."`
}

// resetDestination forgets that a destination has failed, so that its circuits are closed.
func resetDestination(c *call) (any, error) {
	dest, err := target.ParseAuthority(c.path["destination"])
	if err != nil {
		return nil, apiError(http.StatusBadRequest,
			fmt.Errorf("'%s' is not a destination: host:port", plaintext.Printable(c.path["destination"])))
	}
	return c.forget("destination reset", "destination", dest.String(), func(h selected) int { return h.ResetDestination(dest.String()) })
}

// flushDNS forgets a name, or all.
func flushDNS(c *call) (any, error) {
	name, err := nameOf(asked[string](c, "name"))
	if err != nil {
		return nil, err
	}
	return c.forget("names flushed", "name", name, func(h selected) int { return h.FlushNames(name) })
}

// nameOf is a name in its canonical spelling.
func nameOf(asked string) (string, error) {
	if asked == "" {
		return "", nil
	}
	name, addr, err := target.ParseHost(asked)
	if err != nil || addr.IsValid() {
		return "", apiError(http.StatusBadRequest,
			fmt.Errorf("query parameter 'name': '%s' is not a host name", plaintext.Printable(asked)))
	}
	return name, nil
}

// forget has handlers forget something. What several of them share counts once.
func (c *call) forget(change, field, what string, do func(selected) int) (any, error) {
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	var out Forgotten
	for _, h := range handlers {
		out.Forgotten += do(h)
	}
	c.changed(change, zap.String(field, what), zap.Int("entries", out.Forgotten))
	return &out, nil
}
