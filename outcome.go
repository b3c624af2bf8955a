package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// blame is who a failure is charged to.
type blame string

const (
	blameNobody   blame = ""
	blameClient   blame = "client"
	blamePolicy   blame = "policy"
	blameDNS      blame = "dns"
	blameOrigin   blame = "origin"
	blameUpstream blame = "upstream"
	blameNetwork  blame = "network" // between us and a destination: nobody in particular
	blameProxy    blame = "proxy"   // our own limits and bugs
)

// failure is what went wrong, in the terms of everything that must know:
// status, Proxy-Status (RFC 9209), blame and a sentence for people. A value of
// it is an error, so that code that knows what happened says so at once.
type failure struct {
	status int
	kind   string // error type of RFC 9209 §2.3
	blame  blame
	text   string // for the client: names no internal address and no rule
}

func (f *failure) Error() string { return f.text }

// unreached reports whether it tells that a destination cannot be reached, for its name,
// the connection or TLS. Nothing that a client asks for brings these about.
func (f *failure) unreached() bool {
	switch f {
	case failDNS, failDNSTimeout, failRefused, failUnroutable, failDialTimeout, failCertificate, failTLS, failTLSAlert:
		return true
	}
	return false
}

// The failures. Statuses are those that RFC 9209 §2.3 recommends, but for
// policy (403) and loops (508).
var (
	failTarget        = &failure{400, "http_request_error", blameClient, "malformed request target"}
	failRequest       = &failure{400, "http_request_error", blameClient, "malformed request"}
	failFields        = &failure{431, "http_request_error", blameClient, "request has too many header fields"}
	failVia           = &failure{431, "http_request_error", blameClient, "request has passed through too many proxies"}
	failFieldsSize    = &failure{431, "http_request_error", blameClient, "header fields of the request are too large"}
	failBodySize      = &failure{413, "http_request_error", blameClient, "request body is too large"}
	failAuth          = &failure{407, "http_request_denied", blameClient, "proxy authentication required"}
	failClientLogins  = &failure{429, "http_request_denied", blameClient, "too many logins of this client are being checked"}
	failLogins        = &failure{503, "http_request_denied", blameProxy, "too many logins are being checked"}
	failEarly         = &failure{425, "http_request_denied", blameClient, "request may be a replay; repeat it after the TLS handshake"}
	failDenied        = &failure{403, "http_request_denied", blamePolicy, "destination is not allowed"}
	failDeniedAddress = &failure{403, "destination_ip_prohibited", blamePolicy, "address of the destination is not allowed"}
	failLoop          = &failure{508, "proxy_loop_detected", blamePolicy, "request would loop back to this proxy"}
	failDNS           = &failure{502, "dns_error", blameDNS, "name of the destination does not resolve"}
	failDNSTimeout    = &failure{504, "dns_timeout", blameDNS, "resolving the name of the destination timed out"}
	failRefused       = &failure{502, "connection_refused", blameOrigin, "connection refused by the destination"}
	failUnroutable    = &failure{502, "destination_ip_unroutable", blameNetwork, "no route to the destination"}
	failDialTimeout   = &failure{504, "connection_timeout", blameOrigin, "connecting to the destination timed out"}
	failTerminated    = &failure{502, "connection_terminated", blameOrigin, "connection closed by the destination"}
	failCertificate   = &failure{502, "tls_certificate_error", blameOrigin, "certificate of the destination is not valid"}
	failTLS           = &failure{502, "tls_protocol_error", blameOrigin, "TLS handshake with the destination failed"}
	failTLSAlert      = &failure{502, "tls_alert_received", blameOrigin, "TLS handshake refused by the destination"}
	failProtocol      = &failure{502, "http_protocol_error", blameOrigin, "malformed response of the destination"}
	failHeaderSize    = &failure{502, "http_response_header_section_size", blameOrigin, "response header of the destination is too large"}
	failIncomplete    = &failure{502, "http_response_incomplete", blameOrigin, "response of the destination is incomplete"}
	failHeadTimeout   = &failure{504, "http_response_timeout", blameOrigin, "destination did not answer in time"}
	failLimit         = &failure{503, "connection_limit_reached", blameProxy, "too many connections"}
	failHolding       = &failure{503, "connection_limit_reached", blameClient, "too many requests of this client or user at once"}
	failCircuit       = &failure{503, "destination_unavailable", blameOrigin, "destination has failed repeatedly and is given a pause"}
	failUnavailable   = &failure{503, "destination_unavailable", blameOrigin, "upstream proxy has no way to the destination"}
	failCanceled      = &failure{499, "", blameClient, "client went away"}
	failInternal      = &failure{500, "proxy_internal_error", blameProxy, "internal error"}

	failNoUpstream         = &failure{503, "destination_unavailable", blameUpstream, "no upstream proxy is available"}
	failUpstreamConnect    = &failure{502, "connection_refused", blameUpstream, "upstream proxy cannot be reached"}
	failUpstreamTimeout    = &failure{504, "connection_timeout", blameUpstream, "connecting to the upstream proxy timed out"}
	failUpstreamTLS        = &failure{502, "tls_protocol_error", blameUpstream, "TLS handshake with the upstream proxy failed"}
	failUpstreamTerminated = &failure{502, "connection_terminated", blameUpstream, "connection closed by the upstream proxy"}
	failUpstreamProtocol   = &failure{502, "http_protocol_error", blameUpstream, "malformed answer of the upstream proxy"}
	failUpstreamAuth       = &failure{500, "proxy_configuration_error", blameUpstream, "upstream proxy refuses our credentials"}
	failUpstreamInternal   = &failure{502, "proxy_internal_error", blameUpstream, "upstream proxy has failed"}
	failUpstreamLimit      = &failure{503, "connection_limit_reached", blameUpstream, "upstream proxy is overloaded"}
	failUpstreamDenied     = &failure{403, "http_request_denied", blamePolicy, "destination is refused by the upstream proxy"}
	failUpstreamRequest    = &failure{502, "http_request_error", blameClient, "upstream proxy does not take the request"}
	failUpstreamGateway    = &failure{502, "destination_unavailable", blameNetwork, "upstream proxy did not get through to the destination"}
	failUpstreamSilent     = &failure{504, "connection_timeout", blameNetwork, "upstream proxy did not answer in time"}
)

// classify is the one place that turns an error into a failure: everything that
// depends on how a request ended reads its result.
func classify(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if d, ok := errors.AsType[*denial](err); ok {
		if d.reason == denyAddress {
			return failDeniedAddress
		}
		return failDenied
	}
	if _, ok := errors.AsType[*target.Error](err); ok {
		return failTarget
	}
	if e, ok := errors.AsType[*noUpstreamError](err); ok {
		if e.limit {
			return failLimit
		}
		return failNoUpstream
	}
	if _, ok := errors.AsType[*connpool.LimitError](err); ok {
		return failLimit
	}
	if _, ok := errors.AsType[*proxydial.HeadSizeError](err); ok {
		return failFieldsSize
	}
	if _, ok := errors.AsType[*holdingError](err); ok {
		return failHolding
	}
	if _, ok := errors.AsType[*circuitOpenError](err); ok {
		return failCircuit
	}
	if p, ok := errors.AsType[*h1.ProtocolError](err); ok {
		if p.TooLarge {
			return failHeaderSize
		}
		return failProtocol
	}
	if e, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		return ofMatcher(e)
	}
	return classifyNetwork(err)
}

// ofMatcher is the failure of a matcher that says itself how a request is to be
// answered: remote_ip of a request in TLS early data, for one.
func ofMatcher(e caddyhttp.HandlerError) *failure {
	switch {
	case e.StatusCode == http.StatusTooEarly:
		return failEarly
	case e.StatusCode >= 400 && e.StatusCode < 500:
		return &failure{e.StatusCode, "http_request_denied", blamePolicy, "refused by a matcher of a route"}
	case e.StatusCode > 500 && e.StatusCode < 600:
		return &failure{e.StatusCode, "proxy_internal_error", blameProxy, "a matcher of a route has failed"}
	}
	return failInternal
}

// classifyNetwork sorts what the resolver, the sockets and TLS report.
func classifyNetwork(err error) *failure {
	if errors.Is(err, context.Canceled) {
		return failCanceled
	}
	if outOfDescriptors(err) || errors.Is(err, dnscache.ErrNoTurn) {
		return failLimit // also where it is the resolver that needs a descriptor
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		if d.IsTimeout {
			return failDNSTimeout
		}
		return failDNS
	}
	if f := classifyTLS(err); f != nil {
		return f
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return failRefused
	case isAny(err, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE) && !noIPv6(err):
		return failLimit // local ports are used up
	case isAny(err, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
		syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM):
		return failUnroutable
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return failDialTimeout
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failIncomplete
	case errors.Is(err, h1.ErrClosedBeforeResponse), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return failTerminated
	}
	return failInternal
}

func isAny(err error, targets ...syscall.Errno) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// noIPv6 reports whether a dial failed because this machine has no IPv6: the
// same error tells of used-up ports otherwise.
func noIPv6(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return false
	}
	addr, ok := op.Addr.(*net.TCPAddr)
	return ok && addr.IP.To4() == nil
}

func classifyTLS(err error) *failure {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return failCertificate
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return failCertificate
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return failTLSAlert // how crypto/tls reports an alert of the peer
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "local error" {
		return failTLS // and one of its own, as about a record that is broken
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return failTLS
	}
	if h, ok := errors.AsType[*tlsError](err); ok && !h.Timeout() {
		return failTLS
	}
	return nil
}

// outcome is how a request ended and what it took. The access log, the
// placeholders, the client's answer and passive health read this one value.
type outcome struct {
	failure *failure // nil on success
	err     error    // the error behind failure

	group       string     // of upstreams; empty for a direct path
	upstream    string     // of the last attempt, without credentials
	remote      netip.Addr // that was dialed
	reused      bool
	attempts    int
	dial        time.Duration
	ttfb        time.Duration
	duration    time.Duration
	bytesUp     int64
	bytesDown   int64
	closeReason string
	authFailure authFailure
}

// account takes the result of a tunnel into the outcome.
func (o *outcome) account(result relay.Result, start time.Time) {
	o.bytesUp, o.bytesDown = result.BytesUp, result.BytesDown
	o.closeReason = result.Reason.String()
	o.duration = time.Since(start)
	o.err = result.Err
	switch result.Reason {
	case relay.ReasonClientError:
		o.failure = failCanceled
	case relay.ReasonOriginError:
		o.failure = failTerminated
	}
}

// finish accounts for the request and, where it failed, tells the client. It
// is the last step of every request of ours.
func (t *transaction) finish(err error) error {
	t.out.duration = time.Since(t.start)
	if err == nil {
		return nil
	}
	t.out.err = err
	t.out.failure = classify(err)
	if t.r.Context().Err() != nil {
		t.out.failure = failCanceled
	}
	t.logFailure()
	if t.out.failure.blame != blameProxy {
		t.logAsInfo()
	}
	if t.committed || t.out.failure == failCanceled {
		t.abort()
	}
	t.writeFailure()
	return nil
}

// logAsInfo keeps the access-log line at Info, which Caddy would raise to Error
// for every status from 500 on: what others did is no error of this server.
func (t *transaction) logAsInfo() {
	if t.logged() {
		caddyhttp.SetVar(t.r.Context(), caddyhttp.LogLevelVar, "INFO")
	}
}

// writeFailure answers with status, Proxy-Status and a sentence. It writes the
// answer itself: a returned error would leave the body to Caddy, which leaves
// it empty.
func (t *transaction) writeFailure() {
	f := t.out.failure
	header := t.w.Header()
	header.Set("Proxy-Status", t.h.ServerName+"; error="+f.kind+"; details="+quotedString(f.text))
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	if f == failAuth {
		header.Set("Proxy-Authenticate", t.h.Auth.challenge())
	}
	if after := retryAfter(t.out.err); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	linger := t.closeClientConnection()
	body := f.text + "\n"
	if t.target.Host != "" {
		body = t.target.String() + ": " + body
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	t.w.WriteHeader(f.status)
	if t.r.Method != http.MethodHead {
		_, _ = io.WriteString(t.w, body)
	}
	if linger && t.upload == nil {
		t.linger()
	}
}

// retryAfter is when the client may try again, 0 where nothing is known.
func retryAfter(err error) time.Duration {
	if c, ok := errors.AsType[*circuitOpenError](err); ok {
		return max(c.retryAfter, time.Second)
	}
	switch classify(err) {
	case failLimit, failHolding, failClientLogins, failLogins:
		return time.Second
	}
	return 0
}

// logFailure writes the one line that says why. What clients, policy and
// destinations do is Debug: it is in the access log as well. What the operator
// must look at is a Warn or an Error; of limits and of groups that are out, what is
// beyond one line a second for each is Debug too.
func (t *transaction) logFailure() {
	level, withheld := zap.DebugLevel, zap.Skip()
	switch t.out.failure {
	case failLimit, failLogins, failNoUpstream:
		if ok, n := t.h.limitLog.allow(limitReason(t.out.err), time.Now()); ok {
			level = zap.WarnLevel
			if n > 0 {
				withheld = zap.Int64("withheld", n)
			}
		}
	case failInternal, failLocalAddress:
		level = zap.ErrorLevel
	}
	if c := t.h.logger.Check(level, "request failed"); c != nil {
		c.Write(
			zap.String("method", t.r.Method),
			zap.String("destination", t.target.String()),
			zap.String("remote", t.r.RemoteAddr),
			zap.String("blame", string(t.out.failure.blame)),
			zap.String("reason", t.out.failure.kind),
			zap.Error(t.out.err),
			withheld)
	}
}

// quotedString writes s as an sf-string (RFC 8941 §3.3.3). Our own texts are
// ASCII; anything else is replaced.
func quotedString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
