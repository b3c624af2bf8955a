// Package clientend is the client's end of a tunnel and its connection, as the server of
// net/http or quic-go has them: a stream of HTTP/2 or HTTP/3 that is read and written like a
// connection, a connection of HTTP/1.1 that is taken over, what a client may leave unread and
// send ahead, and what such a server knows of its client and does not tell.
//
// stream.go has the stream, rest.go what a client has sent that is gone, stuck.go the write
// that does not end, window.go the bounds of an HTTP/2 connection, server.go the server's own
// writer and what is seen of it.
//
// It knows requests, responses and relays. It must never import what routes or accounts for a
// request (internal/core), what configures or explains, nor Caddy.
package clientend
