// Package admin is what people ask a running Caddy, or a configuration, about its egress
// handlers: the endpoints of the admin API, and the commands.
//
// It knows handlers by the interface Entry, and Caddy. It must never import the handler
// itself, nor what is inside of the core.
package admin
