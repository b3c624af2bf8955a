package egress

import (
	"crypto/tls"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// transaction is a request on its way through the handler.
type transaction struct {
	exchange.Exchange
	h *Handler

	credentials []string    // for us, that came with the request
	authority   string      // as the request has it
	rawHost     string      // the Host of the request, where that was another spelling
	ownLine     *accessLine // of the access log, where it is not Caddy's to write
}

func newTransaction(h *Handler, w http.ResponseWriter, r *http.Request) *transaction {
	t := &transaction{h: h}
	t.Proxy, t.HTTP, t.Client = &h.proxy, r, (*httpClient)(t)
	t.Writer, t.Config, t.Observer = w, &h.exchanges, t
	return t
}

// ServeHTTP serves a request if it is one for a proxy, and hands it to the next
// handler otherwise.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := newTransaction(h, w, r)
	if t.Use = t.classify(); t.Use == upstream.NotOurs {
		t.keepCredentials()
		return next.ServeHTTP(w, r)
	}
	return h.serve(t)
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
	if err := t.ChooseRoute(); err != nil {
		return t.finish(err)
	}
	if t.Use == upstream.Tunnel {
		return t.finish(t.connect())
	}
	return t.finish(t.Serve())
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
	r := t.HTTP
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
		t.authority, t.HTTPS = r.URL.Host, strings.EqualFold(r.URL.Scheme, "https")
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
	if takenForOrigin(t.Writer, r, dest.Host) || t.forSite(dest) {
		return upstream.NotOurs
	}
	// What may have been meant for https is not sent in clear.
	t.HTTPS = dest.Port == 443
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

// forSite reports whether a destination is the site itself.
func (t *transaction) forSite(dest target.Target) bool {
	_, ok := t.h.hosts[dest.Host]
	return ok
}

// begin prepares what every request of ours needs.
func (t *transaction) begin() {
	t.Start = time.Now()
	// Caddy and net/http replace and wrap r.Body, also where there is none;
	// only length and framing tell.
	t.BodyRead = t.Use == upstream.Tunnel || t.HTTP.ContentLength == 0 && len(t.HTTP.TransferEncoding) == 0
	t.Reader = exchange.WholeBody(t.HTTP)
	t.observe()
	if t.namesUser() {
		t.logSafely()
	}
}

// keepCredentials takes away what was meant for us of a request for the next handler:
// its credentials, where we ask for some or where the client takes us for a proxy. Other
// credentials are perhaps for a proxy behind us.
func (t *transaction) keepCredentials() {
	if t.h.Auth.enabled() || t.HTTP.ProtoMajor == 1 && t.HTTP.URL.Scheme != "" {
		delete(t.HTTP.Header, "Proxy-Authorization")
	}
}

// authenticate finds out who the client is, and takes the credentials away:
// they are for us and go no further (RFC 9110 §11.7.2).
func (t *transaction) authenticate() error {
	t.credentials = t.HTTP.Header["Proxy-Authorization"]
	defer delete(t.HTTP.Header, "Proxy-Authorization")
	if a := t.h.Auth; a.enabled() {
		user, session, failed, err := a.users.Login(t.HTTP.Context(), clientIP(t.HTTP), t.HTTP.Header)
		if err != nil {
			return err
		}
		if failed != "" {
			t.Outcome.AuthFailure = failed
			return failure.Auth
		}
		t.User, t.Session = user, session
		t.setUser(user)
	}
	return nil
}

// leave sees to it that nobody reads the body after the handler has returned:
// not our own goroutine, and not net/http, which would wait on an HTTP/1
// connection for the rest of a body before it closes it.
func (t *transaction) leave() {
	t.EndUpload(!t.Aborted)
	t.Held.LetGo()
	if !t.BodyRead && t.HTTP.ProtoMajor == 1 {
		_ = http.NewResponseController(t.Writer).SetReadDeadline(exchange.LongAgo)
	}
}

// errScheme refuses a scheme that we do not speak.
var errScheme = errors.New("scheme is neither http nor https")

// authorize parses the destination and applies the rules that need no address.
// Addresses are checked when they are dialed.
func (t *transaction) authorize() error {
	var err error
	switch {
	case t.Use == upstream.Tunnel:
		t.Target, err = target.ParseAuthority(t.authority)
	case t.HTTP.URL.Scheme != "" && !t.HTTPS && !strings.EqualFold(t.HTTP.URL.Scheme, "http"):
		err = errScheme
	case t.HTTP.URL.User != nil:
		err = errors.New("user information in the request target")
	case t.HTTPS:
		t.Target, err = target.ParseHostPort(t.authority, 443)
	default:
		t.Target, err = target.ParseHostPort(t.authority, 80)
	}
	if err != nil {
		return failure.Target.Because(err)
	}
	t.showDestination()
	return t.Proxy.Access.Now().CheckTarget(t.Target)
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
func (t *transaction) checkEarly() error {
	if t.Early = cameEarly(t.HTTP); t.Early && (t.Use == upstream.Tunnel || !safeMethod(t.HTTP.Method)) {
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
