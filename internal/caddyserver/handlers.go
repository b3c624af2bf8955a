package caddyserver

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// This file contains what is seen of handlers of ours in routes that are being provisioned:
// the JSON of a handler stands in its route until all handlers of the route are loaded.

// hiddenSearch looks for a handler of ours behind another one of ours that takes all its
// requests, in routes that are not loaded yet.
type hiddenSearch struct{ found bool }

// rawRoute is what is looked at of a route.
type rawRoute struct {
	Match  []json.RawMessage `json:"match"`
	Handle []json.RawMessage `json:"handle"`
}

// rawHandler is what is looked at of a handler.
type rawHandler struct {
	Handler string            `json:"handler"`
	Name    string            `json:"name"`   // of ours
	Hosts   []json.RawMessage `json:"hosts"`  // of ours, which leaves requests for them to others
	Routes  []rawRoute        `json:"routes"` // of a subroute
}

// routes goes through routes in order. taken says whether a handler before them takes all
// requests for a proxy, and so does the result behind them.
func (s *hiddenSearch) routes(routes []rawRoute, taken bool) bool {
	for _, r := range routes {
		inside := s.handlers(r.Handle, taken)
		taken = taken || inside && len(r.Match) == 0
	}
	return taken
}

func (s *hiddenSearch) handlers(raws []json.RawMessage, taken bool) bool {
	for _, raw := range raws {
		var h rawHandler
		if json.Unmarshal(raw, &h) != nil {
			continue // which is for the other module to tell
		}
		switch h.Handler {
		case "egress":
			s.found = s.found || taken
			taken = taken || len(h.Hosts) == 0
		case "subroute":
			taken = s.routes(h.Routes, taken)
		}
	}
	return taken
}

// HidesEgress reports whether a handler of ours of the server can never be reached, for another
// one before it. The server is that of the first which is being provisioned: the
// JSON of all of them still stands in their routes.
func HidesEgress(server *caddyhttp.Server) bool {
	var routes []rawRoute
	for _, r := range server.Routes {
		match := make([]json.RawMessage, max(len(r.MatcherSets), len(r.MatcherSetsRaw)))
		routes = append(routes, rawRoute{match, r.HandlersRaw})
	}
	var s hiddenSearch
	s.routes(routes, false)
	return s.found
}

// OnlyHosts returns the host names behind which alone the handler that is being
// provisioned can be reached, or nil if it can be reached under any name. While
// a route's handlers are provisioned their JSON still stands in the route, and
// its matchers are there already; that is how our route is told from the rest.
func OnlyHosts(server *caddyhttp.Server) []string {
	for _, route := range server.Routes {
		if !slices.ContainsFunc(route.HandlersRaw, mentionsEgress) {
			continue
		}
		var hosts []string
		for _, set := range route.MatcherSets {
			h := hostMatcher(set)
			if h == nil {
				return nil
			}
			hosts = append(hosts, h...)
		}
		return hosts
	}
	return nil
}

func mentionsEgress(raw json.RawMessage) bool {
	return bytes.Contains(raw, []byte(`"handler":"egress"`)) || bytes.Contains(raw, []byte(`"handler": "egress"`))
}

// hostMatcher returns the host names of a matcher set that needs one of them.
func hostMatcher(set caddyhttp.MatcherSet) []string {
	for _, m := range set {
		switch host := m.(type) {
		case caddyhttp.MatchHost:
			return host
		case *caddyhttp.MatchHost:
			return *host
		}
	}
	return nil
}

// InstanceNumber is which instance of a handler with the name this is, counted from 1, where
// it stands in a named route, of which each server that uses it has one: in the order of
// their addresses, since servers are provisioned in any. It is 0 elsewhere.
func InstanceNumber(app *caddyhttp.App, server *caddyhttp.Server, name string) int {
	for route, r := range server.NamedRoutes {
		if r == nil || !slices.ContainsFunc(r.HandlersRaw, func(raw json.RawMessage) bool { return namesEgress(raw, name) }) {
			continue // it is being provisioned, so its JSON still stands there
		}
		n, place := 1, strings.Join(server.Listen, ",")
		for _, other := range app.Servers {
			if _, ok := other.NamedRoutes[route]; ok && strings.Join(other.Listen, ",") < place {
				n++
			}
		}
		return n
	}
	return 0
}

// namesEgress reports whether a handler, or one in its subroutes, is ours and has the name.
func namesEgress(raw json.RawMessage, name string) bool {
	var h rawHandler
	if json.Unmarshal(raw, &h) != nil {
		return false
	}
	return h.Handler == "egress" && h.Name == name || slices.ContainsFunc(h.Routes, func(r rawRoute) bool {
		return slices.ContainsFunc(r.Handle, func(raw json.RawMessage) bool { return namesEgress(raw, name) })
	})
}
