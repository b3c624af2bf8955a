package egress

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/caddy-egress/egress/internal/health"
)

// This file contains the table of blame: what an attempt through an upstream
// proxy says about the upstream, and what about the destination. A destination
// that is dead must never take a healthy upstream out.

// verdict is what one attempt says. The failure's blame decides what the circuit of
// the destination makes of it; kind is for the health of the upstream.
type verdict struct {
	kind       health.Kind
	failure    *failure
	retryAfter time.Duration // of an overload
	evidence   bool          // the upstream made this answer itself, not the origin
}

// verdictSuccess is a path that stands.
var verdictSuccess = verdict{kind: health.Success}

// namedFailures are the error types of RFC 9209 §2.3 with which an upstream tells
// what went wrong behind it: the upstream has done its job.
var namedFailures = map[string]*failure{
	"dns_error":                          failDNS,
	"dns_timeout":                        failDNSTimeout,
	"destination_not_found":              failDNS,
	"destination_unavailable":            failRefused,
	"destination_ip_unroutable":          failUnroutable,
	"connection_refused":                 failRefused,
	"connection_terminated":              failTerminated,
	"connection_timeout":                 failDialTimeout,
	"connection_read_timeout":            failHeadTimeout,
	"connection_write_timeout":           failHeadTimeout,
	"tls_protocol_error":                 failTLS,
	"tls_certificate_error":              failCertificate,
	"tls_alert_received":                 failTLSAlert,
	"http_response_incomplete":           failIncomplete,
	"http_response_header_section_size":  failHeaderSize,
	"http_response_header_size":          failHeaderSize,
	"http_response_body_size":            failProtocol,
	"http_response_trailer_section_size": failHeaderSize,
	"http_response_trailer_size":         failHeaderSize,
	"http_response_transfer_coding":      failProtocol,
	"http_response_content_coding":       failProtocol,
	"http_response_timeout":              failHeadTimeout,
	"http_upgrade_failed":                failProtocol,
	"http_protocol_error":                failProtocol,
}

// squidFailures are the same in the words of Squid's X-Squid-Error.
var squidFailures = map[string]*failure{
	"ERR_DNS_FAIL":            failDNS,
	"ERR_CONNECT_FAIL":        failRefused,
	"ERR_SECURE_CONNECT_FAIL": failTLS,
	"ERR_READ_TIMEOUT":        failHeadTimeout,
	"ERR_READ_ERROR":          failTerminated,
	"ERR_WRITE_ERROR":         failTerminated,
	"ERR_ZERO_SIZE_OBJECT":    failTerminated,
	"ERR_INVALID_RESP":        failProtocol,
	"ERR_TOO_BIG":             failProtocol,
	"ERR_GATEWAY_FAILURE":     failProtocol,
	"ERR_UNSUP_HTTPVERSION":   failProtocol,
}

// judgeStatus judges an answer that is no success: of an upstream to CONNECT, or a
// response to an exchange that came through one. Of the latter only what has
// evidence says anything.
func judgeStatus(status int, header http.Header) verdict {
	switch status {
	case http.StatusProxyAuthRequired:
		return verdict{kind: health.AuthFault, failure: failUpstreamAuth, evidence: true}
	case http.StatusForbidden:
		return verdict{kind: health.Success, failure: failUpstreamDenied}
	case http.StatusTooManyRequests:
		return verdict{kind: health.Overload, failure: failUpstreamLimit, retryAfter: parseRetryAfter(header)}
	}
	if v, ok := judgeNamed(header); ok {
		return v
	}
	switch status {
	case http.StatusServiceUnavailable:
		if after := parseRetryAfter(header); after > 0 {
			return verdict{kind: health.Overload, failure: failUpstreamLimit, retryAfter: after}
		}
		fallthrough
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return verdict{kind: health.SoftFail, failure: failUpstreamGateway}
	}
	return verdict{kind: health.Neutral, failure: failUpstreamGateway}
}

// judgeNamed judges by what the upstream says of itself.
func judgeNamed(header http.Header) (verdict, bool) {
	if kind := proxyStatusError(header["Proxy-Status"]); kind != "" {
		switch kind {
		case "proxy_internal_error", "proxy_internal_response", "proxy_configuration_error":
			return verdict{kind: health.Failure, failure: failUpstreamInternal, evidence: true}, true
		case "connection_limit_reached":
			return verdict{kind: health.Overload, failure: failUpstreamLimit, retryAfter: parseRetryAfter(header), evidence: true}, true
		case "destination_ip_prohibited", "http_request_denied", "http_request_error":
			return verdict{kind: health.Success, failure: failUpstreamDenied, evidence: true}, true
		case "proxy_loop_detected":
			return verdict{kind: health.Neutral, failure: failLoop, evidence: true}, true
		}
		if f, ok := namedFailures[kind]; ok {
			return verdict{kind: health.Success, failure: f, evidence: true}, true
		}
		return verdict{kind: health.SoftFail, failure: failUpstreamGateway, evidence: true}, true
	}
	if values := header["X-Squid-Error"]; len(values) > 0 {
		name, _, _ := strings.Cut(values[0], " ")
		switch f, ok := squidFailures[name]; {
		case ok:
			return verdict{kind: health.Success, failure: f, evidence: true}, true
		case name == "ERR_SOCKET_FAILURE":
			return verdict{kind: health.Failure, failure: failUpstreamInternal, evidence: true}, true
		}
		return verdict{kind: health.SoftFail, failure: failUpstreamGateway, evidence: true}, true
	}
	return verdict{}, false
}

// proxyStatusError returns the error of the proxy nearest to us: members are in
// the order in which the response has passed them (RFC 9209 §2).
func proxyStatusError(values []string) string {
	if len(values) == 0 {
		return ""
	}
	list, err := httpsfv.UnmarshalList(values)
	if err != nil || len(list) == 0 {
		return ""
	}
	item, ok := list[len(list)-1].(httpsfv.Item)
	if !ok || item.Params == nil {
		return ""
	}
	v, ok := item.Params.Get("error")
	if !ok {
		return ""
	}
	token, _ := v.(httpsfv.Token)
	return string(token)
}

// madeByUpstream reports whether a response to an exchange with status 502, 503 or
// 504 was made by the upstream and not by the origin (or something before it).
// Where nothing tells, it is the origin's.
func madeByUpstream(status int, header http.Header, bodyless bool) bool {
	switch status {
	case http.StatusProxyAuthRequired:
		return true
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return false
	}
	if _, ok := judgeNamed(header); ok {
		return true
	}
	return bodyless && len(header["Via"]) == 0
}

// maxRetryAfter keeps a Retry-After from being for ever.
const maxRetryAfter = time.Hour

// parseRetryAfter reads Retry-After (RFC 9110 §10.2.3), 0 where there is none.
func parseRetryAfter(header http.Header) time.Duration {
	v := header.Get("Retry-After")
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(time.Until(at), 0), maxRetryAfter)
}
