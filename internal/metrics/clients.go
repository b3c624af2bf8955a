package metrics

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// This file contains what is counted of the connections of clients.

// door is what clients come in by: Caddy's HTTP server.
const door = "http"

// The protocols of clients' connections. HTTP/3 is not among them: its connections are hidden
// from handlers.
const (
	silentClient = "none" // nothing was asked yet
	http1Client  = "http/1"
	http2Client  = "http/2"
)

// Clients counts the connections of clients to one server. It holds nothing of the server or
// its handlers.
type Clients struct {
	use  *Use
	open sync.Map // of net.Conn, to the protocol that it is counted under
}

// Clients begins to count the connections of clients to the server of the handler.
func (u *Use) Clients() *Clients { return &Clients{use: u} }

// State is http.Server's ConnState: it is told of each connection when its state changes, by
// one goroutine after the other.
func (c *Clients) State(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.open.Store(conn, silentClient)
		clientConnections.WithLabelValues(c.use.take().handler, door, silentClient).Inc()
	case http.StateActive:
		if was, ok := c.open.Load(conn); ok && was == silentClient {
			c.speaks(conn, protocolOf(conn))
		}
	case http.StateClosed, http.StateHijacked:
		was, ok := c.open.LoadAndDelete(conn)
		if !ok {
			return // it came before this was asked to count
		}
		handler := c.use.recorder.Load().handler
		clientConnections.WithLabelValues(handler, door, was.(string)).Dec()
		if was == silentClient {
			clientsTotal.WithLabelValues(handler, door, silentClient).Inc()
		}
		c.use.giveBack()
	}
}

// speaks counts a connection under the protocol that it turns out to speak.
func (c *Clients) speaks(conn net.Conn, protocol string) {
	c.open.Store(conn, protocol)
	handler := c.use.recorder.Load().handler
	clientConnections.WithLabelValues(handler, door, silentClient).Dec()
	clientConnections.WithLabelValues(handler, door, protocol).Inc()
	clientsTotal.WithLabelValues(handler, door, protocol).Inc()
}

// protocolOf is what a connection speaks that has begun to. HTTP/2 without TLS cannot be told
// from HTTP/1.1 by it.
func protocolOf(conn net.Conn) string {
	if secure, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		return http2Client
	}
	return http1Client
}
