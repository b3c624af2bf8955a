package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// transaction is one request of ours on its way through the handler.
type transaction struct {
	h     *Handler
	w     http.ResponseWriter
	r     *http.Request
	start time.Time
	use   upstream.Use

	user        string   // authenticated; empty without authentication
	credentials []string // for us, that came with the request
	session     string   // that the client has named in its credentials
	route       *Route
	paths       paths
	again       bool        // the next attempt is on a fresh connection of the same path
	resent      bool        // a request that may have been acted on was sent to another upstream
	early       bool        // it came, or may have come, in TLS early data
	https       bool        // the origin is spoken to over TLS
	authority   string      // as the request has it
	rawHost     string      // the Host of the request, where that was another spelling
	ownLine     *accessLine // of the access log, where it is not Caddy's to write
	target      target.Target
	body        io.Reader // of the request
	upload      *upload   // nil where there is no body, or none was asked for
	slot        uint32    // of the local addresses that are kept apart by user
	retries     retry.Retries
	bound       bool           // the connection to the origin is this client's own
	committed   bool           // the client has been sent the head of a response
	aborted     bool           // the client's connection or stream is about to be broken
	held        origin.Holding // counted against the client's limits
	bodyRead    bool           // the client's body was read to its clean end, or there is none
	out         outcome
}

// ServeHTTP serves a request if it is one for a proxy, and hands it to the next
// handler otherwise.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := transaction{h: h, w: w, r: r}
	if t.use = t.classify(); t.use == upstream.NotOurs {
		t.keepCredentials()
		return next.ServeHTTP(w, r)
	}
	return h.serve(&t)
}

// serve takes a request of ours through its steps.
func (h *Handler) serve(t *transaction) error {
	t.begin()
	defer t.writeOwnLine()
	defer t.leave()
	if err := t.authenticate(); err != nil {
		return t.finish(err)
	}
	if err := t.checkEarly(); err != nil {
		return t.finish(err)
	}
	if err := t.authorize(); err != nil {
		return t.finish(err)
	}
	if err := t.chooseRoute(); err != nil {
		return t.finish(err)
	}
	if t.use == upstream.Tunnel {
		return t.finish(t.connect())
	}
	return t.finish(t.exchange())
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
func (t *transaction) classify() upstream.Use {
	r := t.r
	if r.Method == http.MethodConnect {
		requestTarget, path := connectOnWire(r)
		t.authority = r.Host
		switch {
		case r.ProtoMajor == 1:
			t.authority = requestTarget
		case path != "":
			// An extended CONNECT (RFC 8441) has a path and asks for another
			// protocol than a tunnel.
			return upstream.NotOurs
		}
		return upstream.Tunnel
	}
	if r.URL.Scheme != "" {
		t.authority, t.https = r.URL.Host, strings.EqualFold(r.URL.Scheme, "https")
		// User information does not go to the site either: it is refused.
		if len(t.h.hosts) > 0 && r.URL.User == nil && t.forSite(parsePlain(t.authority)) {
			return upstream.NotOurs
		}
		return upstream.Exchange
	}
	if r.ProtoMajor == 1 {
		return upstream.NotOurs
	}
	t.authority = r.Host
	if len(t.h.hosts) == 0 {
		return upstream.NotOurs
	}
	dest := parsePlain(r.Host)
	if takenForOrigin(t.w, r, dest.Host) || t.forSite(dest) {
		return upstream.NotOurs
	}
	// What may have been meant for https is not sent in clear.
	t.https = dest.Port == 443
	return upstream.Exchange
}

// parsePlain parses the authority of a request for http; what is malformed is no
// destination, and refused later.
func parsePlain(authority string) target.Target {
	dest, _ := target.ParseHostPort(authority, 80)
	return dest
}

// takenForOrigin reports whether the client of an HTTP/2 or HTTP/3 request is known
// to mean https, and so takes this server for the origin itself: it has named the
// host in its TLS handshake, or, on HTTP/2, its :scheme can be told.
func takenForOrigin(w http.ResponseWriter, r *http.Request, host string) bool {
	return r.TLS != nil && (host != "" && strings.EqualFold(r.TLS.ServerName, host) || sharesTLSState(w, r.TLS))
}

// sharesTLSState reports whether a request has the TLS state of its HTTP/2
// connection. The HTTP/2 server hands it to requests for https only; those for
// http get a copy of their own from net/http. That is told nowhere else, so this
// looks at fields that are not exported, and only to refuse: where they are not
// what they are now, the answer is no.
func sharesTLSState(w http.ResponseWriter, state *tls.ConnectionState) bool {
	v := reflect.ValueOf(innermostWriter(w))
	for _, name := range [...]string{"rws", "conn", "tlsState"} {
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return false
		}
		if v = v.Elem().FieldByName(name); !v.IsValid() {
			return false
		}
	}
	return v.Kind() == reflect.Pointer && v.Pointer() == reflect.ValueOf(state).Pointer()
}

// hostname is the host of an authority, without its port.
func hostname(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

// forSite reports whether a destination is the site itself.
func (t *transaction) forSite(dest target.Target) bool {
	_, ok := t.h.hosts[dest.Host]
	return ok
}

// begin prepares what every request of ours needs.
func (t *transaction) begin() {
	t.start = time.Now()
	// Caddy and net/http replace and wrap r.Body, also where there is none;
	// only length and framing tell.
	t.bodyRead = t.use == upstream.Tunnel || t.r.ContentLength == 0 && len(t.r.TransferEncoding) == 0
	t.body = wholeBody(t.r)
	t.observe()
	if t.namesUser() {
		t.logSafely()
	}
}

// keepCredentials takes away what was meant for us of a request for the next handler:
// its credentials, where we ask for some or where the client takes us for a proxy. Other
// credentials are perhaps for a proxy behind us.
func (t *transaction) keepCredentials() {
	if t.h.Auth.enabled() || t.r.ProtoMajor == 1 && t.r.URL.Scheme != "" {
		delete(t.r.Header, "Proxy-Authorization")
	}
}

// authenticate finds out who the client is, and takes the credentials away:
// they are for us and go no further (RFC 9110 §11.7.2).
func (t *transaction) authenticate() error {
	t.credentials = t.r.Header["Proxy-Authorization"]
	defer delete(t.r.Header, "Proxy-Authorization")
	if a := t.h.Auth; a.enabled() {
		user, session, failed, err := a.users.Login(t.r.Context(), clientIP(t.r), t.r.Header)
		if err != nil {
			return err
		}
		if failed != "" {
			t.out.authFailure = failed
			return failure.Auth
		}
		t.user, t.session = user, session
		t.setUser(user)
	}
	return nil
}

// peekBody finds out whether an HTTP/3 request has a body where only the end of
// its stream can tell: a GET with an empty body is not the same to every origin
// as a GET without one. Methods that usually bring a body are not looked at, so
// that nothing is held back.
func (t *transaction) peekBody() error {
	if t.bodyRead || t.r.ProtoMajor < 3 || t.r.ContentLength >= 0 || !retry.Idempotent(t.r.Method) || t.r.Method == http.MethodPut {
		return nil
	}
	first := make([]byte, 512)
	n, err := t.body.Read(first)
	switch {
	case n == 0 && err == io.EOF:
		t.bodyRead = true
	case err != nil && err != io.EOF:
		return failure.Request.Because(err)
	default:
		t.body = io.MultiReader(bytes.NewReader(first[:n]), t.body)
	}
	return nil
}

// leave sees to it that nobody reads the body after the handler has returned:
// not our own goroutine, and not net/http, which would wait on an HTTP/1
// connection for the rest of a body before it closes it.
func (t *transaction) leave() {
	if t.upload != nil {
		t.upload.join(!t.aborted)
	}
	t.held.LetGo()
	if !t.bodyRead && t.r.ProtoMajor == 1 {
		_ = http.NewResponseController(t.w).SetReadDeadline(longAgo)
	}
}

// errScheme refuses a scheme that we do not speak.
var errScheme = errors.New("scheme is neither http nor https")

// authorize parses the destination and applies the rules that need no address.
// Addresses are checked when they are dialed.
func (t *transaction) authorize() error {
	var err error
	switch {
	case t.use == upstream.Tunnel:
		t.target, err = target.ParseAuthority(t.authority)
	case t.r.URL.Scheme != "" && !t.https && !strings.EqualFold(t.r.URL.Scheme, "http"):
		err = errScheme
	case t.r.URL.User != nil:
		err = errors.New("user information in the request target")
	case t.https:
		t.target, err = target.ParseHostPort(t.authority, 443)
	default:
		t.target, err = target.ParseHostPort(t.authority, 80)
	}
	if err != nil {
		return failure.Target.Because(err)
	}
	t.showDestination()
	return t.h.access.Now().CheckTarget(t.target)
}

// clientGone reports whether the client has left.
func (t *transaction) clientGone() bool { return errors.Is(t.r.Context().Err(), context.Canceled) }
