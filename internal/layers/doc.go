// Package layers reaches through connections that run on other connections: TLS,
// what notes the end of a connection below it, TLS once more, and a socket.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package layers
