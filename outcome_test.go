package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dunglas/httpsfv"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// opError wraps a system call's error as package net does.
func opError(err error) error {
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		name   string
		err    error
		status int
		kind   string
		blame  failure.Blame
	}{
		{"authentication", failure.Auth, 407, "http_request_denied", "client"},
		{"bad target", &target.Error{Reason: "x"}, 400, "http_request_error", "client"},
		{"explained target", failure.Target.Because(errors.New("x")), 400, "http_request_error", "client"},
		{"bad request", failure.Request.Because(errors.New("x")), 400, "http_request_error", "client"},
		{"explained wins over its cause", failure.HeadTimeout.Because(os.ErrDeadlineExceeded), 504, "http_response_timeout", "origin"},
		{"name denied", &acl.Denial{Reason: acl.DenyHost, Rule: "deny x"}, 403, "http_request_denied", "policy"},
		{"port denied", acl.ErrPortDenied, 403, "http_request_denied", "policy"},
		{"address denied", acl.DenyLoopback, 403, "destination_ip_prohibited", "policy"},
		{"self", fmt.Errorf("%w: here", failure.Loop), 508, "proxy_loop_detected", "policy"},
		{"limit", &connpool.LimitError{Scope: connpool.ScopeConns}, 503, "connection_limit_reached", "proxy"},
		{"limit after waiting", &connpool.LimitError{Timeout: true}, 503, "connection_limit_reached", "proxy"},
		{"circuit", &destination.OpenError{RetryAfter: time.Second}, 503, "destination_unavailable", "origin"},
		{"circuit of what fails", &destination.OpenError{Causes: []*failure.Failure{failure.NoName, failure.Refused}}, 503, "destination_unavailable", "origin"},
		{"circuit of a name that does not exist", &destination.OpenError{Causes: []*failure.Failure{failure.NoName, failure.NoName}}, 503, "destination_unavailable", "client"},

		{"no such host", &net.DNSError{Err: "no such host", IsNotFound: true}, 502, "dns_error", "client"},
		{"server failure", &net.DNSError{Err: "server misbehaving", IsTemporary: true}, 502, "dns_error", "dns"},
		{"resolver timeout", &net.DNSError{Err: "i/o timeout", IsTimeout: true}, 504, "dns_timeout", "dns"},
		{"refused", opError(syscall.ECONNREFUSED), 502, "connection_refused", "origin"},
		{"no route to host", opError(syscall.EHOSTUNREACH), 502, "destination_ip_unroutable", "network"},
		{"no route to network", opError(syscall.ENETUNREACH), 502, "destination_ip_unroutable", "network"},
		{"dial timeout", &net.OpError{Op: "dial", Err: context.DeadlineExceeded}, 504, "connection_timeout", "origin"},
		{"socket timeout", opError(os.ErrDeadlineExceeded), 504, "connection_timeout", "origin"},
		{"kernel timeout", opError(syscall.ETIMEDOUT), 504, "connection_timeout", "origin"},
		{"reset", opError(syscall.ECONNRESET), 502, "connection_terminated", "origin"},
		{"broken pipe", opError(syscall.EPIPE), 502, "connection_terminated", "origin"},
		{"end", io.EOF, 502, "connection_terminated", "origin"},
		{"closed", net.ErrClosed, 502, "connection_terminated", "origin"},

		{"unknown authority", &failure.TLSError{Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, 502, "tls_certificate_error", "origin"},
		{"host name", &failure.TLSError{Err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: new(x509.Certificate), Host: "x"}}}, 502, "tls_certificate_error", "origin"},
		{"bare host name", x509.HostnameError{Certificate: new(x509.Certificate), Host: "x"}, 502, "tls_certificate_error", "origin"},
		{"plain text", &failure.TLSError{Err: tls.RecordHeaderError{Msg: "x"}}, 502, "tls_protocol_error", "origin"},
		{"end in the handshake", &failure.TLSError{Err: io.EOF}, 502, "tls_protocol_error", "origin"},
		{"reset in the handshake", &failure.TLSError{Err: opError(syscall.ECONNRESET)}, 502, "tls_protocol_error", "origin"},
		// As crypto/tls reports it: the type of the alert is not exported.
		{"alert", &failure.TLSError{Err: &net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}}, 502, "tls_alert_received", "origin"},
		{"broken record", &net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}, 502, "tls_protocol_error", "origin"},
		{"handshake timeout", &failure.TLSError{Err: context.DeadlineExceeded}, 504, "connection_timeout", "origin"},
		{"handshake socket timeout", &failure.TLSError{Err: opError(os.ErrDeadlineExceeded)}, 504, "connection_timeout", "origin"},

		{"malformed response", &h1.ProtocolError{Reason: "x"}, 502, "http_protocol_error", "origin"},
		{"response head too large", &h1.ProtocolError{Reason: "x", TooLarge: true}, 502, "http_response_header_section_size", "origin"},
		{"nothing", h1.ErrClosedBeforeResponse, 502, "connection_terminated", "origin"},
		{"cut", io.ErrUnexpectedEOF, 502, "http_response_incomplete", "origin"},
		{"stale", &retry.StaleError{Err: h1.ErrClosedBeforeResponse}, 502, "connection_terminated", "origin"},

		{"canceled", context.Canceled, 499, "", "client"},
		{"canceled dial", &net.OpError{Op: "dial", Err: context.Canceled}, 499, "", "client"},
		{"canceled handshake", &failure.TLSError{Err: context.Canceled}, 499, "", "client"},
		{"fields over the limit of an upstream", &proxydial.HeadSizeError{Size: 2, Limit: 1}, 431, "http_request_error", "client"},
		{"limit of the client", &origin.HoldingError{Setting: "max_per_client"}, 503, "connection_limit_reached", "client"},
		{"no descriptors to resolve", &net.DNSError{Err: "dial udp", UnwrapErr: opError(syscall.EMFILE)}, 503, "connection_limit_reached", "proxy"},
		{"no descriptors", opError(syscall.EMFILE), 503, "connection_limit_reached", "proxy"},
		{"no descriptors on the system", opError(syscall.ENFILE), 503, "connection_limit_reached", "proxy"},
		{"no local ports", opError(syscall.EADDRNOTAVAIL), 503, "connection_limit_reached", "proxy"},
		{"anything else", errors.New("x"), 500, "proxy_internal_error", "proxy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, err := range []error{tc.err, fmt.Errorf("wrapped: %w", tc.err)} {
				f := failure.Of(err)
				if f.Status != tc.status || f.Type != tc.kind || f.Blame != tc.blame {
					t.Errorf("%v: %d %s %s, want %d %s %s", err, f.Status, f.Type, f.Blame, tc.status, tc.kind, tc.blame)
				}
			}
		})
	}
}

// proxyErrors are the error types of RFC 9209 §2.3.
var proxyErrors = strings.Fields(`dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited
	destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout
	connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received
	http_request_error http_request_denied http_response_incomplete http_response_header_section_size
	http_response_header_size http_response_body_size http_response_trailer_section_size http_response_trailer_size
	http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
	http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected`)

var allFailures = []*failure.Failure{
	failure.Target, failure.Request, failure.FieldsSize, failure.Auth, failure.ClientLogins, failure.Logins, failure.Early, failure.Denied, failure.DeniedAddress, failure.Loop, failure.DNS, failure.NoName, failure.NoNameCircuit, failure.DNSTimeout, failure.Refused,
	failure.Unroutable, failure.DialTimeout, failure.Terminated, failure.Certificate, failure.TLS, failure.TLSAlert, failure.Protocol, failure.HeaderSize,
	failure.Incomplete, failure.HeadTimeout, failure.Limit, failure.Holding, failure.Circuit, failure.Internal, failure.TLSTimeout,
	failure.UpstreamCertificate, failure.UpstreamTLSTimeout, failure.UpstreamTLS, failure.UpstreamChallenge, failure.UpstreamAuth,
}

// Every failure that a client is told about is in the terms of RFC 9209, and
// its answer is well-formed.
func TestFailuresAreToldAsStandardized(t *testing.T) {
	for _, f := range allFailures {
		t.Run(f.Type+"/"+f.Text, func(t *testing.T) {
			if !slices.Contains(proxyErrors, f.Type) {
				t.Errorf("%s is no error type of RFC 9209", f.Type)
			}
			w := answerOf(t, f, "GET")
			if w.Code != f.Status {
				t.Errorf("status %d", w.Code)
			}
			status, err := httpsfv.UnmarshalList(w.Header()["Proxy-Status"])
			if err != nil || len(status) != 1 {
				t.Fatalf("Proxy-Status %q: %v", w.Header()["Proxy-Status"], err)
			}
			item := status[0].(httpsfv.Item)
			if item.Value != httpsfv.Token("caddy") {
				t.Errorf("proxy is %#v", item.Value)
			}
			if kind, _ := item.Params.Get("error"); kind != httpsfv.Token(f.Type) {
				t.Errorf("error is %#v", kind)
			}
			if details, _ := item.Params.Get("details"); details != f.Text {
				t.Errorf("details are %#v", details)
			}
			if want := "origin.test:8080: " + f.Text + "\n"; w.Body.String() != want || w.Header().Get("Content-Length") != fmt.Sprint(len(want)) {
				t.Errorf("body %q, Content-Length %s", w.Body, w.Header().Get("Content-Length"))
			}
			if got := w.Header().Get("Proxy-Authenticate"); (got != "") != (f.Status == 407) {
				t.Errorf("Proxy-Authenticate %q", got)
			}
			if w.Header().Get("Cache-Control") != "no-store" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("header %v", w.Header())
			}
		})
	}
}

// failing is a request for origin.test:8080 that writes to w.
func failing(w http.ResponseWriter, method string) (*incoming, *observer.ObservedLogs) {
	observed, logs := observer.New(zap.DebugLevel)
	r := httptest.NewRequest(method, "http://origin.test:8080/", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
	tx := newIncoming(&Handler{
		ServerName: "caddy", Auth: new(Auth), proxy: core.Proxy{Logger: zap.New(observed), Limited: new(core.LimitLog)},
	}, w, r)
	tx.Use, tx.Target, tx.BodyRead = upstream.Exchange, target.Target{Host: "origin.test", Port: 8080}, true
	return tx, logs
}

func answerOf(t *testing.T, err error, method string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	tx, _ := failing(w, method)
	if err := tx.finish(err); err != nil {
		t.Errorf("Caddy is left to answer: %v", err)
	}
	return w
}

func TestRetryAfter(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&destination.OpenError{RetryAfter: 2 * time.Second}, "2"},
		{&destination.OpenError{RetryAfter: 2*time.Second + 1}, "3"},
		{&destination.OpenError{RetryAfter: time.Millisecond}, "1"},
		{&destination.OpenError{RetryAfter: 0}, "1"},
		{fmt.Errorf("wrapped: %w", &destination.OpenError{RetryAfter: time.Minute}), "60"},
		{&connpool.LimitError{}, "1"},
		{opError(syscall.EMFILE), "1"},
		{&origin.HoldingError{Setting: "max_per_user"}, "1"},
		{failure.Refused, ""},
		{acl.DenyLoopback, ""},
	} {
		if got := answerOf(t, tc.err, "GET").Header().Get("Retry-After"); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestFailureOfHeadHasNoBody(t *testing.T) {
	w := answerOf(t, failure.Refused, "HEAD")
	if w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
		t.Errorf("%d bytes, Content-Length %s", w.Body.Len(), w.Header().Get("Content-Length"))
	}
}

// The answer tells the client nothing about addresses and rules; the log does.
func TestAnswerNamesNoRule(t *testing.T) {
	w := httptest.NewRecorder()
	tx, logs := failing(w, "GET")
	secret := &acl.Denial{Reason: acl.DenyAddress, Rule: "deny 10.11.12.13/32"}
	tx.finish(fmt.Errorf("%w at %s", secret, netip.MustParseAddr("10.11.12.13")))
	if strings.Contains(fmt.Sprint(w.Header(), w.Body), "10.11.12.13") {
		t.Errorf("answer %v %s", w.Header(), w.Body)
	}
	if logs.Len() != 1 || !strings.Contains(fmt.Sprint(logs.All()[0].ContextMap()), "10.11.12.13") {
		t.Errorf("log %v", logs.All())
	}
}

// What others do is Debug; what an operator must look at is more.
func TestFailureLogLevels(t *testing.T) {
	for _, f := range append([]*failure.Failure{failure.Canceled}, allFailures...) {
		tx, logs := failing(httptest.NewRecorder(), "GET")
		func() {
			defer func() { recover() }() // a client that left
			tx.finish(f)
		}()
		want := zap.DebugLevel
		switch f {
		case failure.Limit, failure.Logins:
			want = zap.WarnLevel
		case failure.Internal:
			want = zap.ErrorLevel
		}
		if logs.Len() != 1 || logs.All()[0].Level != want {
			t.Errorf("%s: %v", f.Text, logs.All())
			continue
		}
		fields := logs.All()[0].ContextMap()
		if fields["blame"] != string(f.Blame) || fields["reason"] != f.Type || fields["destination"] != "origin.test:8080" {
			t.Errorf("%s: %v", f.Text, fields)
		}
	}
}

// Where the head of a response has been sent, or nobody listens any more, the
// connection is broken: an answer would be taken for the origin's.
func TestFailureAbortsWhatHasBegun(t *testing.T) {
	finish := func(tx *incoming, err error) (aborted any) {
		defer func() { aborted = recover() }()
		tx.finish(err)
		return nil
	}
	for name, change := range map[string]func(*incoming) error{
		"committed": func(tx *incoming) error { tx.Committed = true; return failure.Incomplete },
		"canceled":  func(*incoming) error { return context.Canceled },
		"client gone": func(tx *incoming) error {
			ctx, cancel := context.WithCancel(tx.HTTP.Context())
			cancel()
			tx.HTTP = tx.HTTP.WithContext(ctx)
			return failure.Refused
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			tx, _ := failing(w, "GET")
			if got := finish(tx, change(tx)); got != http.ErrAbortHandler {
				t.Errorf("ended with %v", got)
			}
			if len(w.Header()) > 0 || w.Body.Len() > 0 || !tx.Aborted {
				t.Errorf("answered %v %s", w.Header(), w.Body)
			}
			if name == "client gone" && tx.Outcome.Failure != failure.Canceled {
				t.Errorf("charged as %s", tx.Outcome.Failure.Type)
			}
		})
	}
}
