package core

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Proxy is what serves requests, whatever door they come through: the engines, and the
// settings that concern requests.
type Proxy struct {
	Access       *acl.Rules    // what may be reached
	Router       Router        // where requests leave
	Direct       *Direct       // past all upstreams
	Pool         *origin.Pool  // of connections for exchanges that leave directly
	Pins         *origin.Pins  // of those that are a client's own
	Budget       *retry.Budget // of requests that leave directly
	UnsafeIdle   time.Duration // how long a connection may have been idle for a request that must not be sent twice; 0 for any time, below for none
	ResolveNames bool          // names of destinations are checked by their addresses, also where an upstream resolves them

	Tunnels       *tunnels.Use    // the book that tunnels are counted in
	Policy        *tunnels.Policy // that tunnels are opened under
	Limits        tunnels.Limits  // of tunnels
	CloseDelay    time.Duration   // of tunnels that are listed when none should be
	Timers        relay.Config    // of tunnels, without rates
	RatePerTunnel int64           // bytes a second; 0 for no limit

	Via     Via  // our elements of the Via field
	HideVia bool // they are left out

	HideTrace bool // the client's fields of its trace go to nobody

	Forwarded string // what our element of the Forwarded field tells: for or full; nothing otherwise
	HideIP    bool   // not the address of the client

	Logger  *zap.Logger
	Limited *LimitLog // how often refusals by limits are told of

	Recorder Recorder // of what becomes of requests; nil for none
}

// place is what people know the handler by; "" where it has no book.
func (p *Proxy) place() string {
	if p.Tunnels == nil {
		return ""
	}
	return p.Tunnels.Key
}

// Client is who asks.
type Client interface {
	// IP is the address of the client, as trusted proxies have it.
	IP() string
	// User is whom the client is known as; "" if nobody knows.
	User() string
}

// Body is the body of a request, or what was read of it.
type Body interface {
	// Replayable reports whether all of it that was read is at hand.
	Replayable() bool
	// Rewind prepares it to be sent again. The attempt has ended.
	Rewind()
	// Waits reports whether the client had yet to send some of it when the attempt ended,
	// and all that it had sent could be written.
	Waits() bool
}

// Request is a request on its way through the proxy, whatever door it came through.
type Request struct {
	Proxy  *Proxy        // that serves it
	Client Client        // who asks
	HTTP   *http.Request // as matchers and policies see it; made up where the door is none of HTTP's
	Start  time.Time

	User    string       // authenticated by us; empty without authentication
	Login   *auth.Stored // of a tunnel: what User has logged in with; nil without
	Session string       // that the client has named in its credentials
	Target  target.Target
	Route   *Route

	Ways    Ways
	Retries retry.Retries
	Held    origin.Holding // counted against the client's limits
	Body    Body           // nil where there is none, or none was asked for
	Outcome Outcome
	traced  traced

	Slot      uint32 // of the local addresses that are kept apart by user
	Use       upstream.Use
	HTTPS     bool // the origin is spoken to over TLS
	again     bool // the next attempt is on a fresh connection of the same path
	sent      bool // a member of a group was sent the request, or may have been
	resent    bool // a request that may have been acted on was sent to another upstream
	BodyRead  bool // the body was read to its clean end, or there is none
	Committed bool // the client has been sent the head of a response
	recorded  bool // the recorder was told of its end
}

// clientGone reports whether the client has left.
func (t *Request) clientGone() bool { return errors.Is(t.HTTP.Context().Err(), context.Canceled) }
