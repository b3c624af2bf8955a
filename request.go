package egress

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// proxy is what serves requests, whatever door they come through: the engines, and the
// settings that concern requests.
type proxy struct {
	access       *acl.Rules
	router       router
	direct       *directWay // past all upstreams
	pool         *origin.Pool
	pins         *origin.Pins
	budget       *retry.Budget // of requests that leave directly
	unsafeIdle   time.Duration // how long a connection may have been idle for a request that must not be sent twice; 0 for any time, below for none
	resolveNames bool          // names of destinations are checked by their addresses, also where an upstream resolves them

	tunnels       *tunnels.Use
	limits        tunnels.Limits
	closeDelay    time.Duration // of tunnels that are listed when none should be
	timers        relay.Config  // of tunnels, without rates
	ratePerTunnel int64         // bytes a second; 0 for no limit

	via     viaNames
	hideVia bool

	logger   *zap.Logger
	limitLog *limitLog
}

// client is who asks.
type client interface {
	// IP is the address of the client, as trusted proxies have it.
	IP() string
	// User is whom the client is known as; "" if nobody knows.
	User() string
}

// body is the body of a request, or what was read of it.
type body interface {
	// replayable reports whether all of it that was read is at hand.
	replayable() bool
	// rewind prepares it to be sent again. The attempt has ended.
	rewind()
}

// request is a request on its way through the proxy, whatever door it came through.
type request struct {
	p      *proxy
	client client
	r      *http.Request // as matchers and policies see it
	start  time.Time
	use    upstream.Use

	user    string // authenticated by us; empty without authentication
	session string // that the client has named in its credentials
	target  target.Target
	https   bool // the origin is spoken to over TLS
	route   *way

	paths   paths
	again   bool   // the next attempt is on a fresh connection of the same path
	resent  bool   // a request that may have been acted on was sent to another upstream
	slot    uint32 // of the local addresses that are kept apart by user
	retries retry.Retries
	held    origin.Holding // counted against the client's limits

	body      body // nil where there is none, or none was asked for
	bodyRead  bool // it was read to its clean end, or there is none
	committed bool // the client has been sent the head of a response
	out       outcome
}
