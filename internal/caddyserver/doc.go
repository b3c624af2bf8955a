// Package caddyserver is what a handler of ours can see of the HTTP server of Caddy that it
// stands in: its app, where it listens, which handlers of ours stand where in its routes, also
// hidden behind one another or behind host names, and what Caddy keeps beside a request.
//
// server.go has the server, handlers.go the handlers in it, request.go the requests.
//
// It knows Caddy and imports nothing of this project. It decides nothing: what is warned about
// and what a handler is called is for the roof.
package caddyserver
