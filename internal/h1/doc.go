// Package h1 is the client side of HTTP/1.1 on one connection (RFC 9112): it
// writes a request head that the caller has put together, reads response heads
// strictly, and reads bodies in every framing.
//
// It is synchronous: the goroutine that serves the client writes the request
// and reads the response itself. An idle connection therefore costs neither a
// goroutine nor a buffer; buffers are borrowed by Begin and given back by End.
//
// Parsing is strict where leniency has let requests be smuggled or responses be
// split: whatever leaves the framing in doubt is a *ProtocolError, after which
// the connection must be closed.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package h1
