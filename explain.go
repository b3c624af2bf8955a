package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the dry run of a request: its steps are those of ServeHTTP, with
// the same code behind them, but for the last. explain_path.go tells of paths and
// addresses, explain_group.go of upstreams, explain_rules.go of matchers,
// explain_limits.go of limits and local addresses, explain_text.go makes a text of it all.

// explainRequest is a request to be explained. Who asks is taken as given.
type explainRequest struct {
	User     string      `json:"user,omitempty"`      // default: nobody has logged in
	Session  string      `json:"session,omitempty"`   // default: that in User, if there is one
	ClientIP string      `json:"client_ip,omitempty"` // default 127.0.0.1
	Method   string      `json:"method,omitempty"`    // default GET with url, CONNECT with target
	URL      string      `json:"url,omitempty"`       // of an exchange
	Target   string      `json:"target,omitempty"`    // host:port of a tunnel
	Headers  http.Header `json:"headers,omitempty"`   // default: none
}

// Verdicts of an explanation, a path or an address.
const (
	verdictAllowed     = "allowed"
	verdictDenied      = "denied"      // by authentication, rules, routes, or as no request that is served
	verdictUnavailable = "unavailable" // nothing forbids it, but it would fail now
	verdictSite        = "site"        // the request goes to the next handler
)

// explanation is what would become of a request.
type explanation struct {
	Handler string `json:"handler"` // its place
	Running bool   `json:"running"` // false where only a configuration was asked
	Method  string `json:"method"`  // of the request
	Kind    string `json:"kind"`    // exchange, tunnel or site
	HTTPS   bool   `json:"https"`   // an exchange that goes to its origin over TLS

	Authority   string `json:"authority"`             // as it was asked for
	Destination string `json:"destination,omitempty"` // host:port in canonical form
	ClientIP    string `json:"client_ip"`             // as Caddy's {client_ip} has it
	User        string `json:"user,omitempty"`        // without the session
	Session     string `json:"session,omitempty"`     // in the user name, where logins have one

	Authentication string          `json:"authentication"`  // what was made of the user, in words
	Rule           *explainedRule  `json:"rule,omitempty"`  // on the destination as it was asked for
	Route          *explainedRoute `json:"route,omitempty"` // that matches
	Paths          []explainedPath `json:"paths,omitempty"` // the target of the route, then its fallback

	// Limits are those of the client and the handler, whatever the path.
	Limits explainedLimits `json:"limits,omitempty"`

	Verdict string   `json:"verdict"`          // allowed, denied, unavailable or site
	Status  int      `json:"status,omitempty"` // that the client would get, where it would be refused
	Reason  string   `json:"reason,omitempty"` // of a refusal
	Notes   []string `json:"notes,omitempty"`  // what else to know, in words
}

// explainedRule is what the access rules say.
type explainedRule struct {
	Verdict string `json:"verdict"` // allowed or denied
	Rule    string `json:"rule"`    // which of them, or that none does
}

// explainedRoute is the route of a request.
type explainedRoute struct {
	Index    int      `json:"index"`              // in routes; -1 where there are no routes
	Match    string   `json:"match,omitempty"`    // the matcher set that matched; empty: every request
	Skipped  []string `json:"skipped,omitempty"`  // the matcher sets of the routes before it
	To       string   `json:"to"`                 // direct, deny or a group
	Fallback string   `json:"fallback,omitempty"` // the same, where To is a group without a usable member
}

// explain tells what would become of a request. Nothing is sent, and nothing of the
// handler changes but what its resolver remembers. The error is about what was asked.
func (h *Handler) explain(ctx context.Context, asked *explainRequest) (*explanation, error) {
	t, err := h.rehearse(ctx, asked)
	if err != nil {
		return nil, err
	}
	e := &explanation{
		Handler: h.place(), Running: !h.dry,
		Method: t.HTTP.Method, ClientIP: clientIP(t.HTTP),
	}
	if h.dry {
		e.note("the configuration is not running: the use of limits, circuits and the addresses of Caddy's own listeners are not known")
	}
	if t.Use = t.classify(); t.Use == upstream.NotOurs {
		e.Kind, e.Verdict = "site", verdictSite
		e.Authentication = "not asked for: the request is for the site, and goes to the next handler"
		return e, nil
	}
	e.Kind = "exchange"
	if t.Use == upstream.Tunnel {
		e.Kind = "tunnel"
	}
	e.HTTPS, e.Authority = t.HTTPS, shownAuthority(t.authority)
	if t.HTTPS {
		e.note("clients usually ask for https with a tunnel; explain host:port for that")
	}
	e.conclude(t, e.steps(t, asked))
	return e, nil
}

// steps takes the request through the steps of serve.
func (e *explanation) steps(t *transaction, asked *explainRequest) error {
	if err := e.authenticate(t, asked); err != nil {
		return err
	}
	if err := t.checkEarly(); err != nil {
		return err
	}
	err := t.authorize()
	if t.Target.Host != "" {
		e.Destination = t.Target.String()
	}
	if err != nil {
		if d, ok := errors.AsType[*acl.Denial](err); ok {
			e.Rule = &explainedRule{verdictDenied, t.Proxy.Access.Now().Denied(d, t.Target.Port)}
		}
		return err
	}
	e.Rule = &explainedRule{verdictAllowed, t.Proxy.Access.Now().AllowedName(t.Target)}
	if t.Target.IsAddr() {
		e.Rule.Rule = t.Proxy.Access.Now().AllowedAddr(t.Target, t.Target.Addr)
	}
	if err := e.chooseRoute(t); err != nil {
		return err
	}
	if err := t.CheckVia(); err != nil {
		return err
	}
	if n, ok := t.MaxForwards(); ok && n == 0 {
		e.note("Max-Forwards is 0: this proxy would answer the request itself")
	}
	return e.overPaths(t)
}

// conclude fills in how the request would end.
func (e *explanation) conclude(t *transaction, err error) {
	e.Verdict = endsAs(err)
	if err != nil {
		e.Status, e.Reason = failure.Of(err).Status, t.Proxy.Access.Now().Reason(err, t.Target.Port)
	}
}

// endsAs sorts errors into refusals, which are the same tomorrow, and what only
// fails now.
func endsAs(err error) string {
	if err == nil {
		return verdictAllowed
	}
	switch f := failure.Of(err); {
	case f == failure.Holding:
		return verdictUnavailable
	case f.Blame == failure.BlameClient, f.Blame == failure.BlamePolicy:
		return verdictDenied
	}
	return verdictUnavailable
}

// shownAuthority is an authority as it may be shown: without the password that does
// not belong there.
func shownAuthority(authority string) string {
	return plaintext.Escaped(authority[strings.LastIndexByte(authority, '@')+1:])
}

func (e *explanation) note(text string) { e.Notes = append(e.Notes, text) }

// authenticate takes the user as given, as far as there is such a user.
func (e *explanation) authenticate(t *transaction, asked *explainRequest) error {
	if !t.h.Auth.enabled() {
		e.Authentication = "nobody has to log in here"
		if asked.User != "" {
			e.User = asked.User
			e.Authentication += "; the user is taken as that of another handler"
			t.setUser(asked.User)
		}
		return nil
	}
	if asked.User == "" {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(errors.New("no user was given"))
	}
	user, session, ok := t.h.Auth.users.Find(asked.User)
	if !ok {
		e.Authentication = "users have to log in"
		return failure.Auth.Because(fmt.Errorf("there is no user '%s'", plaintext.Escaped(asked.User)))
	}
	if asked.Session != "" {
		session = asked.Session
	}
	e.Authentication = "the user is taken as given; no password was checked"
	t.User, t.Session = user, session
	e.User, e.Session = t.User, t.Session
	t.setUser(t.User)
	return nil
}

// ChooseRoute finds the route, and tells what has matched.
func (e *explanation) chooseRoute(t *transaction) error {
	r, err := t.h.findRoute(t.HTTP)
	if err != nil {
		return err
	}
	t.Route = &r.way
	out := &explainedRoute{Index: slices.Index(t.h.Routes, r), To: r.To, Fallback: r.Fallback}
	e.Route = out
	if out.Index < 0 {
		out.To = targetDirect
		if r.way.To.Group != nil {
			out.To = r.way.To.Group.Name
		}
		return nil
	}
	for i, before := range t.h.Routes[:out.Index] {
		out.Skipped = append(out.Skipped, fmt.Sprintf("routes[%d]: %s", i, strings.Join(before.written, " | ")))
	}
	for i, set := range r.matchers {
		if ok, err := set.MatchWithError(t.HTTP); err == nil && ok {
			out.Match = r.written[i]
			break
		}
	}
	return nil
}

// rehearse makes the request that is asked about, as Caddy would hand it to us from an
// HTTP/1.1 client. Directives of the site that come before the handler have not seen
// it.
func (h *Handler) rehearse(ctx context.Context, asked *explainRequest) (*transaction, error) {
	if asked.Session != "" && (!h.Auth.enabled() || h.Auth.Session == nil) {
		return nil, errors.New("session: logins have none here (auth.session is not configured)")
	}
	r, err := asked.request(ctx)
	if err != nil {
		return nil, err
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, h.server)
	t := newTransaction(h, nil, r)
	t.Start, t.BodyRead = time.Now(), true
	return t, nil
}

func (asked *explainRequest) request(ctx context.Context) (*http.Request, error) {
	method, requestTarget, err := asked.line()
	if err != nil {
		return nil, err
	}
	u := &url.URL{Host: requestTarget} // as net/http has it for CONNECT
	if method != http.MethodConnect {
		if u, err = parseURL(requestTarget); err != nil {
			return nil, err
		}
	}
	client := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if asked.ClientIP != "" {
		if client, err = netip.ParseAddr(asked.ClientIP); err != nil {
			return nil, fmt.Errorf("client_ip: '%s' is not an IP address", plaintext.Escaped(asked.ClientIP))
		}
	}
	header, err := asked.header()
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method: method, URL: u, Host: u.Host, RequestURI: requestTarget,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: http.NoBody,
		RemoteAddr: net.JoinHostPort(client.String(), "0"),
	}
	return r.WithContext(ctx), nil
}

// line returns the method and the request target.
func (asked *explainRequest) line() (method, requestTarget string, err error) {
	method = asked.Method
	switch {
	case asked.URL == "" && asked.Target == "":
		return "", "", errors.New("neither url nor target says where the request goes")
	case asked.URL != "" && asked.Target != "":
		return "", "", errors.New("url is for exchanges and target for tunnels; one request has one of them")
	case asked.URL != "":
		setDefault(&method, http.MethodGet)
		requestTarget = asked.URL
	default:
		setDefault(&method, http.MethodConnect)
		requestTarget = asked.Target
	}
	switch {
	case !plaintext.IsToken(method):
		return "", "", fmt.Errorf("method: '%s' is not a token", plaintext.Escaped(method))
	case method == http.MethodConnect && asked.URL != "":
		return "", "", errors.New("method: CONNECT takes host:port, not a URL")
	case method != http.MethodConnect && asked.URL == "":
		return "", "", fmt.Errorf("method: %s takes a URL, not host:port", method)
	}
	return method, requestTarget, nil
}

// parseURL parses a URL in absolute form. Errors do not repeat it: it may have a
// password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		if strings.Contains(text, "@") {
			err = errors.New("it is malformed")
		}
		return nil, fmt.Errorf("url: %w", err)
	}
	if u.Scheme == "" || u.Host == "" {
		return nil, errors.New("url: not of the form http://host/path")
	}
	return u, nil
}

func (asked *explainRequest) header() (http.Header, error) {
	header := make(http.Header, len(asked.Headers))
	for name, values := range asked.Headers {
		if !plaintext.IsToken(name) {
			return nil, fmt.Errorf("headers: '%s' is no field name", plaintext.Escaped(name))
		}
		name = http.CanonicalHeaderKey(name)
		if name == "Proxy-Authorization" {
			return nil, errors.New("headers: credentials are not asked for; user is taken as given")
		}
		header[name] = append(header[name], values...)
	}
	return header, nil
}
