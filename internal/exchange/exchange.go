package exchange

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/origin"
)

// Config are the settings of exchanges.
type Config struct {
	HeadTimeout   time.Duration // of the head of a response, from the end of the request
	BodyIdle      time.Duration // of a response without a byte; 0: any
	ExpectTimeout time.Duration // of a 100 that the client expects
	MaxHead       int           // bytes of the heads of a response
}

// Observer is told what whoever logs requests may want to know.
type Observer interface {
	// OthersFailed tells that a response of 500 or more is no error of this server.
	OthersFailed()
}

// Exchange is a request that is forwarded, and its response.
type Exchange struct {
	core.Request
	Writer   http.ResponseWriter // of the response
	Config   *Config
	Observer Observer

	Reader   io.Reader    // of the body
	conn     *origin.Conn // of the current attempt; not to be used when that is over
	upload   *upload      // nil where there is no body, or none was asked for
	seen     progress     // of the upload, while the origin is silent
	upgrade  *upgrade     // to another protocol; nil where none is asked for
	interim  bool         // an informational response has come
	bound    bool         // the connection to the origin is this client's own
	Early    bool         // it came, or may have come, in TLS early data
	changing sync.Mutex   // held while the route changes fields; see Guard
	Aborted  bool         // the client's connection or stream is about to be broken
}
