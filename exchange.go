package egress

import (
	"io"
	"net/http"
	"time"

	"github.com/caddy-egress/egress/internal/core"
)

// exchangeConfig are the settings of exchanges.
type exchangeConfig struct {
	headTimeout   time.Duration // of the head of a response, from the end of the request
	expectTimeout time.Duration // of a 100 that the client expects
	maxHead       int           // bytes of the heads of a response
	forwarded     string        // off, for or full
	hideIP        bool          // in Forwarded
}

// onlooker is told what whoever logs requests may want to know.
type onlooker interface {
	// othersFailed tells that a response of 500 or more is no error of this server.
	othersFailed()
}

// exchange is a request that is forwarded, and its response.
type exchange struct {
	core.Request
	w        http.ResponseWriter
	cfg      *exchangeConfig
	observer onlooker

	early   bool      // it came, or may have come, in TLS early data
	reader  io.Reader // of the body
	upload  *upload   // nil where there is no body, or none was asked for
	bound   bool      // the connection to the origin is this client's own
	aborted bool      // the client's connection or stream is about to be broken
}
