package egress

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/accesslog"
	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/clientend"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// incoming is a request that has come in through Caddy's door, on its way through the
// handler: an exchange, and what only this door knows of it.
type incoming struct {
	exchange.Exchange
	h *Handler

	credentials []string        // for us, that came with the request
	authority   string          // as the request has it
	rawHost     string          // the Host of the request, where that was another spelling
	ownLine     *accesslog.Line // of the access log, where it is not Caddy's to write
}

func newIncoming(h *Handler, w http.ResponseWriter, r *http.Request) *incoming {
	in := &incoming{h: h}
	in.Proxy, in.HTTP, in.Client = &h.proxy, r, (*httpClient)(in)
	in.Writer, in.Config, in.Observer = w, &h.exchanges, in
	return in
}

// ServeHTTP serves a request if it is one for a proxy, and hands it to the next
// handler otherwise.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	in := newIncoming(h, w, r)
	if in.Use = in.classify(); in.Use == upstream.NotOurs {
		return in.passOn(next)
	}
	return h.serve(in)
}

// passOn hands a request that is not ours to the next handler. Where no handler serves an
// extended CONNECT, its client is told so (RFC 8441 §4, RFC 9220 §3): Caddy's empty 200 would
// say that its protocol is spoken here.
func (in *incoming) passOn(next caddyhttp.Handler) error {
	in.keepCredentials()
	err := next.ServeHTTP(in.Writer, in.HTTP)
	if err == nil && in.HTTP.Method == http.MethodConnect && caddyserver.TakeUnhandled(in.HTTP) {
		in.OthersFailed()
		in.Writer.WriteHeader(http.StatusNotImplemented)
	}
	return err
}

// serve takes a request of ours through its steps.
func (h *Handler) serve(in *incoming) error {
	in.begin()
	defer in.Record()
	defer in.writeOwnLine()
	defer in.leave()
	if err := in.authenticate(); err != nil {
		return in.finish(err)
	}
	if err := checkLength(in.HTTP); err != nil {
		return in.finish(err)
	}
	if err := in.checkEarly(); err != nil {
		return in.finish(err)
	}
	if err := in.authorize(); err != nil {
		return in.finish(err)
	}
	if err := in.ChooseRoute(); err != nil {
		return in.finish(err)
	}
	if in.Use == upstream.Tunnel {
		return in.finish(in.connect())
	}
	err := in.Serve()
	if tunnel := in.Switched(); err == nil && tunnel != nil {
		err = in.switchProtocols(tunnel)
	}
	return in.finish(err)
}

// classify tells what the request is to us, and for an exchange its authority
// and scheme.
//
// On HTTP/1.1 the request target says it all. On HTTP/2 and HTTP/3 Go passes on
// the authority in Host but not the scheme (over TLS, net/http fills in r.TLS
// for every request, whatever its scheme). A client that means https asks for a
// tunnel, unless it takes this server for the origin; so what is neither for the
// site nor known to be for https is an exchange, but only where the operator has
// said what the site is.
func (in *incoming) classify() upstream.Use {
	r := in.HTTP
	if r.Method == http.MethodConnect {
		requestTarget, path := caddyserver.ConnectOnWire(r)
		in.authority = r.Host
		switch {
		case r.ProtoMajor == 1:
			in.authority = requestTarget
		case path != "":
			// An extended CONNECT (RFC 8441) has a path and asks for another
			// protocol than a tunnel.
			return upstream.NotOurs
		}
		return upstream.Tunnel
	}
	if r.URL.Scheme != "" {
		in.authority, in.HTTPS = r.URL.Host, strings.EqualFold(r.URL.Scheme, "https")
		// User information does not go to the site either: it is refused.
		if len(in.h.hosts) > 0 && r.URL.User == nil && in.forSite(parsePlain(in.authority)) {
			return upstream.NotOurs
		}
		return upstream.Exchange
	}
	if r.ProtoMajor == 1 {
		return upstream.NotOurs
	}
	in.authority = r.Host
	if len(in.h.hosts) == 0 {
		return upstream.NotOurs
	}
	dest := parsePlain(r.Host)
	if clientend.TakenForOrigin(in.Writer, r, dest.Host) || in.forSite(dest) {
		return upstream.NotOurs
	}
	// What may have been meant for https is not sent in clear.
	in.HTTPS = dest.Port == 443
	return upstream.Exchange
}

// parsePlain parses the authority of a request for http; what is malformed is no
// destination, and refused later.
func parsePlain(authority string) target.Target {
	dest, _ := target.ParseHostPort(authority, 80)
	return dest
}

// forSite reports whether a destination is the site itself.
func (in *incoming) forSite(dest target.Target) bool {
	_, ok := in.h.hosts[dest.Host]
	return ok
}

// begin prepares what every request of ours needs.
func (in *incoming) begin() {
	in.Enter()
	// Caddy and net/http replace and wrap r.Body, also where there is none;
	// only length and framing tell.
	in.BodyRead = in.Use == upstream.Tunnel || in.HTTP.ContentLength == 0 && len(in.HTTP.TransferEncoding) == 0
	in.Reader = exchange.WholeBody(in.HTTP)
	in.observe()
	if in.namesUser() {
		in.logSafely()
	}
}

// keepCredentials takes away what was meant for us of a request for the next handler:
// its credentials, where we ask for some or where the client takes us for a proxy. Other
// credentials are perhaps for a proxy behind us.
func (in *incoming) keepCredentials() {
	if in.h.Auth.enabled() || in.HTTP.ProtoMajor == 1 && in.HTTP.URL.Scheme != "" {
		delete(in.HTTP.Header, "Proxy-Authorization")
	}
}

// authenticate finds out who the client is, and takes the credentials away:
// they are for us and go no further (RFC 9110 §11.7.2).
func (in *incoming) authenticate() error {
	in.credentials = in.HTTP.Header["Proxy-Authorization"]
	defer delete(in.HTTP.Header, "Proxy-Authorization")
	if a := in.h.Auth; a.enabled() {
		user, session, failed, err := a.users.Login(in.HTTP.Context(), caddyserver.ClientIP(in.HTTP), in.HTTP.Header)
		if err != nil {
			return err
		}
		if failed != "" {
			in.Outcome.AuthFailure, in.Outcome.AuthUser = failed, auth.Tried(http.Header{"Proxy-Authorization": in.credentials})
			return failure.Auth
		}
		in.User, in.Session = user, session
		in.setUser(user)
	}
	return nil
}

// leave sees to it that nobody reads the body after the handler has returned:
// not our own goroutine, and not net/http, which would wait on an HTTP/1
// connection for the rest of a body before it closes it.
func (in *incoming) leave() {
	in.EndUpload(!in.Aborted)
	in.Held.LetGo()
	if !in.BodyRead && in.HTTP.ProtoMajor == 1 {
		_ = http.NewResponseController(in.Writer).SetReadDeadline(exchange.LongAgo)
	}
}

// errScheme refuses a scheme that we do not speak.
var errScheme = errors.New("scheme is neither http nor https")

// authorize parses the destination and applies the rules that need no address.
// Addresses are checked when they are dialed.
func (in *incoming) authorize() error {
	var err error
	switch {
	case in.Use == upstream.Tunnel:
		in.Target, err = target.ParseAuthority(in.authority)
	case in.HTTP.URL.Scheme != "" && !in.HTTPS && !strings.EqualFold(in.HTTP.URL.Scheme, "http"):
		err = errScheme
	case in.HTTP.URL.User != nil:
		err = errors.New("user information in the request target")
	case in.HTTPS:
		in.Target, err = target.ParseHostPort(in.authority, 443)
	default:
		in.Target, err = target.ParseHostPort(in.authority, 80)
	}
	if err != nil {
		return failure.Target.Because(err)
	}
	in.showDestination()
	if err := in.CheckEmergency(); err != nil {
		return err
	}
	return in.Proxy.Access.Now().CheckTarget(in.Target)
}

// cameEarly reports whether a request came before the handshake of the client was
// complete, or through an intermediary that says so. What the field holds does not
// matter (RFC 8470 §5.1).
func cameEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || r.Header[exchange.EarlyData] != nil
}

// checkEarly refuses what must not be done twice (RFC 8470 §5.2): the client repeats it
// when the handshake is complete. The rest is forwarded with Early-Data, and what the
// origin says to that is relayed.
func (in *incoming) checkEarly() error {
	if in.Early = cameEarly(in.HTTP); in.Early && (in.Use == upstream.Tunnel || !safeMethod(in.HTTP.Method)) {
		return failure.Early
	}
	return nil
}

// safeMethod reports whether a method changes nothing (RFC 9110 §9.2.1).
func safeMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
