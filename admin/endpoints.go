package admin

import (
	"net/http"

	"github.com/caddy-egress/egress/internal/explain"
	"github.com/caddy-egress/egress/internal/upstream"
)

// endpoints are all that there are, in the order in which they are listed.
var endpoints []endpoint

func init() { // not a value: the index lists what it stands in
	endpoints = []endpoint{
		view("", "The version, and the endpoints.", index, nil),
		view("snapshot", "All of the following in one, but for what needs a question.", viewSnapshot, []param{handler, limit}),
		view("upstreams", "The upstream proxies of all groups. The answer is a list; the field X-Total-Count says how many there are.",
			viewUpstreams, []param{handler, text("group", "Only of this group."), word("state", "Only in this state.", upstream.States[:]...), limit}),
		view("groups", "The groups of upstreams.", viewGroups, []param{handler, limit}),
		view("pools", "The pools of connections for exchanges: to origins, and to each upstream.", viewPools, []param{handler, limit}),
		view("destinations", "The destinations that have failed lately: open circuits first.", viewDestinations,
			[]param{handler, word("circuit", "Only with a circuit in this state.", "closed", "open", "half_open"), limit}),
		view("dns", "The caches of names; with a name, what is remembered of it.", viewDNS,
			[]param{handler, text("name", "The host name to look for. Nothing is asked of DNS servers."), limit}),
		view("rules", "The access rules, and how many requests each has decided about.", viewRules, []param{handler, limit}),
		view("reload", "What the last reload has kept of each handler.", viewReloads, []param{handler, limit}),
		view("users", "The users, by how many tunnels they have.", viewUsers, []param{handler, limit}),
		{"upstreams/{id}", []method{{
			http.MethodPatch, "Takes an upstream out of rotation or back, or weighs it otherwise. It replaces what was ordered before.", nil,
			UpstreamChange{},
			UpstreamOrder{},
			changeUpstream,
		}}},
		view("orders", "What is ordered of upstreams, those that no handler has included.", viewOrders, []param{limit}),
		{"upstreams/{id}/check", []method{{
			http.MethodPost, "Checks an upstream now, and tells what took how long. It counts as the scheduled checks do; where there are none, it tells only.",
			[]param{handler},
			nil,
			CheckedUpstream{},
			checkUpstream,
		}}},
		{"destinations/{destination}/reset", []method{{
			http.MethodPost, "Forgets that a destination (host:port) has failed: its circuits are closed.", []param{handler}, nil, Forgotten{}, resetDestination,
		}}},
		{"dns/flush", []method{{
			http.MethodPost, "Forgets what DNS servers have said of a name, or of all.",
			[]param{handler, text("name", "The host name. Default: all.")},
			nil,
			Forgotten{},
			flushDNS,
		}}},
		{"tunnels", []method{
			{http.MethodGet, "The tunnels that are open.", tunnelParams, nil, list[Tunnel]{}, func(c *call) (any, error) { return viewTunnels(c) }},
			{http.MethodDelete, "Ends the tunnels that are selected.", endTunnelParams, nil, EndedTunnels{}, endTunnels},
		}},
		{"tunnels/{id}", []method{{http.MethodDelete, "Ends a tunnel.", []param{dryRun}, nil, Tunnel{}, endTunnel}}},
		{"emergency", []method{
			{http.MethodGet, "Whether all new requests are denied.", nil, nil, EmergencyState{}, func(c *call) (any, error) { return viewEmergency(c) }},
			{http.MethodPut, "Denies all new requests, of all handlers.", nil, EmergencyOrder{}, EmergencyState{}, orderEmergency},
			{http.MethodDelete, "Serves requests again.", nil, nil, EmergencyState{}, endEmergency},
		}},
		{"events", []method{{
			http.MethodGet, "What happens, as server-sent events: changes of upstreams, reloads, changes by operators, limits that are reached. " +
				"The stream ends at a reload; it goes on where it was for a client that sends Last-Event-ID.",
			[]param{recent},
			nil,
			Event{},
			streamEvents,
		}}},
		{"explain", []method{{
			http.MethodPost, "What would become of a request, without sending it.",
			[]param{text("handler", "The handler that is asked, where there are several.")},
			explain.Request{},
			explain.Explanation{},
			serveExplain,
		}}},
		view("openapi.json", "This description of the endpoints, as OpenAPI 3.1.", describe, nil),
	}
}

// view is an endpoint that only tells something.
func view[T any](path, does string, serve func(*call) (T, error), params []param) endpoint {
	return endpoint{path, []method{{
		name: http.MethodGet, does: does, params: params, answer: *new(T),
		serve: func(c *call) (any, error) { return serve(c) },
	}}}
}

// Index is what there is.
type Index struct {
	Version   string     `json:"version" doc:"The version of this module."`
	OpenAPI   string     `json:"openapi" doc:"Where the description of the endpoints is."`
	Handlers  []string   `json:"handlers" doc:"The places of the handlers."`
	Endpoints []Endpoint `json:"endpoints" doc:"What there is."`
}

// Endpoint is one of them.
type Endpoint struct {
	Method string `json:"method" doc:"The HTTP method."`
	Path   string `json:"path" doc:"The path; what is in braces stands for a value."`
	Does   string `json:"does" doc:"What it tells or does."`
}

func index(c *call) (*Index, error) {
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	out := &Index{Version: Version(), OpenAPI: root + "openapi.json", Handlers: []string{}}
	for _, h := range handlers {
		out.Handlers = append(out.Handlers, h.place)
	}
	for _, e := range endpoints {
		for _, m := range e.methods {
			out.Endpoints = append(out.Endpoints, Endpoint{m.name, root + e.path, m.does})
		}
	}
	return out, nil
}
