// Package admin is what people ask a running Caddy, or a configuration, about its egress
// handlers: the endpoints of the admin API. The commands over them are in package commands.
//
// endpoints.go is the table of what there is, endpoint.go and call.go how a request finds its
// row and what it may ask, view_*.go what is told: each makes JSON of a Report of the package
// that owns the state. openapi.go describes all of it by the types and their tag `doc`.
//
// It knows handlers by the interface Entry, and Caddy. It must never import the handler
// itself, nor what is inside of the core.
package admin
