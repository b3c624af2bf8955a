package metrics

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// This file contains what is counted of the connections of clients.

// door is what clients come in by: Caddy's HTTP server.
const door = "http"

// clientProtocol is what the connection of a client speaks. HTTP/3 is not among them: its
// connections are hidden from handlers.
type clientProtocol int

const (
	silentClient clientProtocol = iota // nothing was asked yet
	http1Client
	http2Client
	clientProtocols // how many there are
)

func (p clientProtocol) String() string {
	return [clientProtocols]string{"none", "http/1", "http/2"}[p]
}

// clientSeries are the metrics of the connections to one handler's server, found once.
type clientSeries struct {
	open  [clientProtocols]prometheus.Gauge
	total [clientProtocols]prometheus.Counter
}

func newClientSeries(handler string) *clientSeries {
	s := new(clientSeries)
	for p := range clientProtocols {
		s.open[p] = clientConnections.WithLabelValues(handler, door, p.String())
		s.total[p] = clientsTotal.WithLabelValues(handler, door, p.String())
	}
	return s
}

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
		c.use.take().clients.open[silentClient].Inc()
	case http.StateActive:
		if was, ok := c.open.Load(conn); ok && was == silentClient {
			c.speaks(conn, protocolOf(conn))
		}
	case http.StateClosed, http.StateHijacked:
		was, ok := c.open.LoadAndDelete(conn)
		if !ok {
			return // it came before this was asked to count
		}
		counted := c.use.recorder.Load().clients
		counted.open[was.(clientProtocol)].Dec()
		if was == silentClient {
			counted.total[silentClient].Inc()
		}
		c.use.giveBack()
	}
}

// speaks counts a connection under the protocol that it turns out to speak.
func (c *Clients) speaks(conn net.Conn, protocol clientProtocol) {
	c.open.Store(conn, protocol)
	counted := c.use.recorder.Load().clients
	counted.open[silentClient].Dec()
	counted.open[protocol].Inc()
	counted.total[protocol].Inc()
}

// protocolOf is what a connection speaks that has begun to. HTTP/2 without TLS cannot be told
// from HTTP/1.1 by it.
func protocolOf(conn net.Conn) clientProtocol {
	if secure, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		return http2Client
	}
	return http1Client
}
