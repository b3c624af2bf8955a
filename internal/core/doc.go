// Package core takes a request through the proxy, whatever door it came through: it
// chooses the route and the way out, retries, opens tunnels, gets connections for
// exchanges, and accounts for how the request ended.
//
// It knows the request as a value, and the client by an interface. It must never import
// what reads or writes a client's protocol, nor Caddy.
package core
