package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// This file contains the table of blame: what an attempt through an upstream
// proxy says about the upstream, and what about the destination. A destination
// that is dead must never take a healthy upstream out.

// Verdict is what one attempt says. The failure's blame decides what the circuit of
// the destination makes of it; kind is for the health of the upstream.
type Verdict struct {
	Kind       health.Kind      // for the health of the upstream
	Failure    *failure.Failure // for the client; nil on success
	RetryAfter time.Duration    // of an overload
	Relayed    bool             // the fault may be the destination's, passed on
	Alone      bool             // and no other upstream is asked, which would tell
	Reached    bool             // the destination was reached, for certain
	Named      bool             // the upstream says itself that it cannot be reached
	Login      bool             // it was refused or accepted before the destination was told
	LoggedIn   bool             // it has accepted a login, whatever came then
	Absolute   bool             // no tunnel was opened: the exchange left in absolute form
	Unsafe     bool             // an exchange in absolute form that must not be sent twice
	Untimed    bool             // the time it took says nothing about the upstream
	Unsent     bool             // the upstream was sent nothing
	Overtaken  bool             // another attempt beside it was faster

	// Question is the one about the upstream's own name that has failed; nil: it was
	// something else.
	Question *dnscache.Question

	// Err is the error behind Failure, for people; nil where nothing more is known.
	Err error
}

// Stands is a path that stands.
var Stands = Verdict{Kind: health.Success, Reached: true}

// JudgeRelayed judges a response to an exchange that the upstream does not seem to
// have made. The upstream has done its job; but what a proxy may answer as well, one
// that leaves no mark on its own errors, does not prove that the origin was reached.
func JudgeRelayed(status int, absolute bool) Verdict {
	v := Stands
	v.Absolute = absolute
	if absolute {
		v.Reached = status < http.StatusInternalServerError && status != http.StatusForbidden &&
			status != http.StatusProxyAuthRequired && status != http.StatusTooManyRequests
	}
	return v
}

// namedFailures are the error types of RFC 9209 §2.3 with which an upstream tells
// what went wrong behind it: the upstream has done its job.
var namedFailures = map[string]*failure.Failure{
	"dns_error":                          failure.DNS,
	"dns_timeout":                        failure.DNSTimeout,
	"destination_not_found":              failure.Unavailable,
	"destination_unavailable":            failure.Unavailable,
	"destination_ip_unroutable":          failure.Unroutable,
	"connection_refused":                 failure.Refused,
	"connection_terminated":              failure.Terminated,
	"connection_timeout":                 failure.DialTimeout,
	"connection_read_timeout":            failure.HeadTimeout,
	"connection_write_timeout":           failure.HeadTimeout,
	"tls_protocol_error":                 failure.TLS,
	"tls_certificate_error":              failure.Certificate,
	"tls_alert_received":                 failure.TLSAlert,
	"http_response_incomplete":           failure.Incomplete,
	"http_response_header_section_size":  failure.HeaderSize,
	"http_response_header_size":          failure.HeaderSize,
	"http_response_body_size":            failure.Protocol,
	"http_response_trailer_section_size": failure.HeaderSize,
	"http_response_trailer_size":         failure.HeaderSize,
	"http_response_transfer_coding":      failure.Protocol,
	"http_response_content_coding":       failure.Protocol,
	"http_response_timeout":              failure.HeadTimeout,
	"http_upgrade_failed":                failure.Protocol,
	"http_protocol_error":                failure.Protocol,
}

// squidFailures are the same in the words of Squid's X-Squid-Error.
var squidFailures = map[string]*failure.Failure{
	"ERR_DNS_FAIL":            failure.DNS,
	"ERR_CONNECT_FAIL":        failure.Refused,
	"ERR_SECURE_CONNECT_FAIL": failure.TLS,
	"ERR_READ_TIMEOUT":        failure.HeadTimeout,
	"ERR_READ_ERROR":          failure.Terminated,
	"ERR_WRITE_ERROR":         failure.Terminated,
	"ERR_ZERO_SIZE_OBJECT":    failure.Terminated,
	"ERR_INVALID_RESP":        failure.Protocol,
	"ERR_TOO_BIG":             failure.Protocol,
	"ERR_GATEWAY_FAILURE":     failure.Protocol,
	"ERR_UNSUP_HTTPVERSION":   failure.Protocol,
}

// judgeReply judges an answer of an upstream that is no success: to CONNECT, or to
// an exchange where it shows that the upstream made it.
func judgeReply(r *proxydial.Reply) Verdict {
	switch r.Status {
	case http.StatusProxyAuthRequired:
		return Verdict{Kind: health.AuthFault, Failure: failure.UpstreamAuth}
	case http.StatusForbidden:
		return Verdict{Kind: health.Success, Failure: failure.UpstreamDenied}
	case http.StatusTooManyRequests:
		return overloaded(r)
	}
	if v, ok := judgeNamed(r); ok {
		return v
	}
	switch r.Status {
	case http.StatusServiceUnavailable:
		if r.RetryAfter != "" {
			return overloaded(r)
		}
		return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong,
		http.StatusRequestHeaderFieldsTooLarge, 494: // which nginx says for 431
		// The client has a part in what the request says: its Via, the destination.
		return Verdict{Kind: health.Neutral, Failure: failure.UpstreamRequest}
	}
	// 502 and 504; and whatever else is no tunnel: tinyproxy says 500 where it cannot
	// connect, and what is no proxy any more says 404 or 405.
	return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}
}

// JudgeAnswer judges an answer of the upstream to an exchange. All that it shows can have
// been written by an origin and relayed. So a 407 is no fault of our credentials, and none
// at all where we have sent none; an internal error is the upstream's own only without a
// Via; and what one destination brings about through several upstreams is believed no more.
func JudgeAnswer(r *proxydial.Reply, authenticates bool) Verdict {
	v := judgeReply(r)
	if refusedByTinyproxy(r) {
		v = Verdict{Kind: health.AuthFault, Failure: failure.UpstreamAuth}
	}
	switch {
	case v.Kind == health.AuthFault && !authenticates:
		v = Verdict{Kind: health.Neutral, Failure: failure.UpstreamChallenge}
	case v.Kind == health.AuthFault:
		v.Kind = health.Failure
	case v.Failure == failure.UpstreamPath:
		v.Kind = health.Success // an origin may have written the details
	case v.Kind == health.Failure && r.Via != "":
		v = Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}
	}
	v.Relayed = true
	v.RetryAfter = min(v.RetryAfter, maxRelayedOverload)
	return v
}

// maxRelayedOverload bounds an overload that may be an origin's, relayed.
const maxRelayedOverload = 5 * time.Second

func overloaded(r *proxydial.Reply) Verdict {
	return Verdict{Kind: health.Overload, Failure: failure.UpstreamLimit, RetryAfter: parseRetryAfter(r.RetryAfter)}
}

// judgeNamed judges by what the upstream says of itself.
func judgeNamed(r *proxydial.Reply) (Verdict, bool) {
	if kind := r.ProxyError(); kind != "" {
		switch kind {
		case "proxy_internal_error", "proxy_internal_response", "proxy_configuration_error":
			return internalError, true
		case "connection_limit_reached":
			return overloaded(r), true
		case "destination_ip_prohibited", "http_request_denied", "http_request_error":
			return Verdict{Kind: health.Success, Failure: failure.UpstreamDenied}, true
		case "proxy_loop_detected":
			return Verdict{Kind: health.Neutral, Failure: failure.Loop}, true
		}
		if v, ok := judgeItsUpstream(r); ok {
			return v, true
		}
		if kind == failure.NoName.Type && (r.ProxyParam("rcode") == "NXDOMAIN" || r.ProxyParam("details") == failure.NoName.Text) {
			return named(failure.NoName), true
		}
		if f, ok := namedFailures[kind]; ok {
			return named(f), true
		}
		return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}, true
	}
	if r.SquidError != "" {
		name, errno, _ := strings.Cut(r.SquidError, " ")
		switch f, ok := squidFailures[name]; {
		case name == "ERR_READ_ERROR" && errno == "0":
			// It has read nothing: so Squid 5.7 answers for a name without addresses.
			return named(failure.DNS), true
		case name == "ERR_CONNECT_FAIL" && unreachableErrnos[errno]:
			return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}, true // as those of SOCKS
		case ok:
			return named(f), true
		case name == "ERR_SOCKET_FAILURE":
			return internalError, true
		}
		return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}, true
	}
	return Verdict{}, false
}

// internalError is the verdict of an answer with which the upstream says that it is at
// fault itself. To CONNECT nobody else can have written it; but for which destination it
// stumbles, a client chooses.
var internalError = Verdict{Kind: health.Failure, Failure: failure.UpstreamInternal, Relayed: true}

// named is the verdict of an answer that says what is wrong with the destination: the
// upstream has done its job. That it cannot be reached may still be the fault of a dead
// uplink; others that reach it will tell.
func named(f *failure.Failure) Verdict {
	return Verdict{Kind: health.Success, Failure: f, Named: f.Unreached() || f == failure.Unavailable}
}

// unreachableErrnos are ENETUNREACH and EHOSTUNREACH, of Linux and of BSD and macOS.
var unreachableErrnos = map[string]bool{"101": true, "113": true, "51": true, "65": true}

// judgeItsUpstream judges an answer of another Caddy Egress that has failed on its way to
// an upstream proxy of its own. RFC 9209 has the same error types for that and for
// failures of the destination; the details tell.
func judgeItsUpstream(r *proxydial.Reply) (Verdict, bool) {
	switch f := failure.OfUpstreams(r.ProxyParam("details")); f {
	case failure.NoUpstream, failure.UpstreamConnect, failure.UpstreamTimeout, failure.UpstreamTLS:
		return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamPath}, true
	case failure.UpstreamGateway, failure.UpstreamSilent, failure.UpstreamPath:
		return Verdict{Kind: health.SoftFail, Failure: failure.UpstreamGateway}, true
	}
	return Verdict{}, false
}

// MadeByUpstream reports whether a response to an exchange was made by the upstream
// and not by the origin, or by something before it. Where nothing tells, it is the
// origin's.
func MadeByUpstream(r *proxydial.Reply) bool {
	switch r.Status {
	case http.StatusProxyAuthRequired:
		return r.Authenticate != "" || r.Via == ""
	case http.StatusInternalServerError: // what RFC 9209 §2.3 recommends for internal errors
		return r.ProxyError() != "" && r.Via == ""
	case http.StatusForbidden, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return r.Evident()
	}
	return refusedByTinyproxy(r)
}

// refusedByTinyproxy reports whether an answer is the 401 with which tinyproxy (seen in
// 1.11.1) says what others say with 407. Its own pages name it as the server and have no
// Via, which it adds to all that it relays.
func refusedByTinyproxy(r *proxydial.Reply) bool {
	return r.Status == http.StatusUnauthorized && r.Via == "" && strings.HasPrefix(r.Server, "tinyproxy")
}

// maxRetryAfter keeps a Retry-After from being for ever.
const maxRetryAfter = time.Hour

// parseRetryAfter reads Retry-After (RFC 9110 §10.2.3), 0 where it says nothing.
func parseRetryAfter(v string) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(time.Until(at), 0), maxRetryAfter)
}
