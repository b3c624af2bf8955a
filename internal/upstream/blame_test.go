package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// What an upstream says about a request that it does not take is charged to nobody: the
// client has a part in what the request says.
func TestBlame_RequestNotTaken(t *testing.T) {
	for _, status := range []int{400, 413, 414, 431, 494} {
		if v := judgeReply(&proxydial.Reply{Status: status}); v.Kind != health.Neutral || v.Failure != failure.UpstreamRequest {
			t.Errorf("%d: %v, %v", status, v.Kind, v.Failure)
		}
	}
	if v := judgeReply(&proxydial.Reply{Status: 405}); v.Kind != health.SoftFail {
		t.Errorf("405: %v", v.Kind)
	}
}

// An overload that an origin may have written lasts a few seconds at most; that of a
// CONNECT is the upstream's own.
func TestBlame_RelayedOverload(t *testing.T) {
	reply := &proxydial.Reply{Status: http.StatusTooManyRequests, RetryAfter: "300"}
	if v := JudgeAnswer(reply, false); v.Kind != health.Overload || v.RetryAfter != maxRelayedOverload {
		t.Errorf("relayed: %v for %s", v.Kind, v.RetryAfter)
	}
	if v := judgeReply(reply); v.Kind != health.Overload || v.RetryAfter != 300*time.Second {
		t.Errorf("of its own: %v for %s", v.Kind, v.RetryAfter)
	}
}

// A question that was never put, for want of a turn, a descriptor or the hosts file,
// charges neither the destination nor an upstream; a silent DNS server does.
func TestNoTurnForAQuestion_Blame(t *testing.T) {
	for cause, charged := range map[error]bool{
		dnscache.ErrNoTurn: false, syscall.EMFILE: false, dnscache.ErrHostsFile: false, context.DeadlineExceeded: true,
	} {
		err := &net.DNSError{UnwrapErr: cause, Err: cause.Error(), Name: "origin.test", IsTimeout: charged, IsTemporary: !charged}
		if destination.Chargeable(err) != charged {
			t.Errorf("%v: the destination is charged: %t", cause, !charged)
		}
		verdict := judgeTunnel(t.Context(), &proxydial.Error{Stage: proxydial.StageDial, Err: err})
		if (verdict.Kind != health.Neutral) != charged {
			t.Errorf("%v: an upstream is judged %v", cause, verdict.Kind)
		}
	}
}

// Squid 5.7 says that reading has failed, without an error of the system, for a name
// that has no addresses.
func TestBlame_SquidWithoutAddresses(t *testing.T) {
	for words, want := range map[string]*failure.Failure{
		"ERR_READ_ERROR 0": failure.DNS, "ERR_READ_ERROR 104": failure.Terminated, "ERR_DNS_FAIL 0": failure.DNS,
	} {
		if v := judgeReply(&proxydial.Reply{Status: 502, SquidError: words}); v.Failure != want || v.Kind != health.Success {
			t.Errorf("%s: %v, %v", words, v.Kind, v.Failure)
		}
	}
}

// Another proxy that says that a name does not exist is believed: its client has mistyped it.
// What is charged, and to whom, is as for every name that does not resolve.
func TestBlame_NoName(t *testing.T) {
	for status, want := range map[string]*failure.Failure{
		"p; error=dns_error": failure.DNS, "p; error=dns_error; rcode=SERVFAIL": failure.DNS, "p; error=dns_error; rcode=\"NXDOMAIN\"": failure.NoName,
		"p; error=dns_error; rcode=NXDOMAIN": failure.NoName, "p; error=dns_error; details=\"" + failure.NoName.Text + "\"": failure.NoName,
	} {
		v := judgeReply(&proxydial.Reply{Status: 502, ProxyStatus: status})
		if v.Failure != want || v.Kind != health.Success || !v.Named || !destination.Chargeable(v.Failure) {
			t.Errorf("%s: %v, %v", status, v.Kind, v.Failure)
		}
	}
}

// Which codes a SOCKS5 upstream answers with hangs on the destination, but for the one
// that says that it knows no CONNECT.
func TestBlame_SOCKSCodes(t *testing.T) {
	for code := proxydial.SOCKSCode(1); code <= 255; code++ {
		kind, f := health.SoftFail, failure.UpstreamGateway
		switch code {
		case proxydial.SOCKSNotAllowed:
			kind, f = health.Success, failure.UpstreamDenied
		case proxydial.SOCKSRefused:
			kind, f = health.Success, failure.Refused
		case proxydial.SOCKSCommandNotSupported:
			kind, f = health.Failure, failure.UpstreamProtocol
		}
		err := &proxydial.Error{Stage: proxydial.StageReply, Err: &proxydial.SOCKSError{Code: code}, Sent: true}
		if v := judgeTunnel(t.Context(), err); v.Kind != kind || v.Failure != f {
			t.Errorf("%d: %v, %v", code, v.Kind, v.Failure)
		}
	}
}

// A stream that an HTTP/2 upstream resets before its answer is what the end of the
// connection is over HTTP/1.1, and may be the destination's. That we have broken the
// protocol is what the upstream says for itself; but what is malformed may be what a client
// has said.
func TestBlame_StreamReset(t *testing.T) {
	own := []http2.ErrCode{
		http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeSettingsTimeout, http2.ErrCodeFrameSize,
		http2.ErrCodeCompression, http2.ErrCodeInadequateSecurity, http2.ErrCodeHTTP11Required,
	}
	for code := http2.ErrCode(0); code < 20; code++ {
		err := &proxydial.Error{Stage: proxydial.StageReply, Err: &proxydial.StreamError{Code: code}, Sent: true}
		v := judgeTunnel(t.Context(), err)
		if slices.Contains(own, code) {
			clients := code == http2.ErrCodeProtocol || code == http2.ErrCodeCompression
			if v.Kind != health.Failure || v.Relayed != clients || v.Failure != failure.UpstreamProtocol {
				t.Errorf("%v: %+v", code, v)
			}
		} else if v.Kind != health.Failure || !v.Relayed || v.Failure != failure.UpstreamTerminated {
			t.Errorf("%v: %+v", code, v)
		}
	}
	refused := &proxydial.Error{Stage: proxydial.StageReply, Err: &proxydial.StreamError{Code: http2.ErrCodeRefusedStream}, Retryable: true}
	if v := judgeTunnel(t.Context(), refused); v.Kind != health.Neutral {
		t.Errorf("refused: %+v", v)
	}
}

// What says that the destination cannot be reached is an answer, and marked as one that a
// dead uplink gives as well; what comes behind that is an answer, no more.
func TestBlame_Named(t *testing.T) {
	for status, marked := range map[string]bool{
		"error=dns_error": true, "error=connection_refused": true, "error=connection_timeout": true,
		"error=destination_ip_unroutable": true, "error=tls_certificate_error": true, "error=destination_unavailable": true,
		"error=connection_terminated": false, "error=http_protocol_error": false, "error=http_request_denied": false,
	} {
		v := judgeReply(&proxydial.Reply{Status: 502, ProxyStatus: "up; " + status})
		if v.Kind != health.Success || v.Named != marked {
			t.Errorf("%s: %+v", status, v)
		}
	}
	for words, marked := range map[string]bool{"ERR_DNS_FAIL 0": true, "ERR_CONNECT_FAIL 111": true, "ERR_READ_ERROR 104": false} {
		if v := judgeReply(&proxydial.Reply{Status: 503, SquidError: words}); v.Kind != health.Success || v.Named != marked {
			t.Errorf("%s: %+v", words, v)
		}
	}
	for _, errno := range []string{"101", "113"} {
		v := judgeReply(&proxydial.Reply{Status: 503, SquidError: "ERR_CONNECT_FAIL " + errno})
		if v.Kind != health.SoftFail || v.Failure != failure.UpstreamGateway {
			t.Errorf("Squid has no route (%s): %+v", errno, v)
		}
	}
}

// A parent that cannot reach an upstream proxy of its own says so in the words of RFC 9209
// that it has for destinations as well. It is not the destination that is charged.
func TestBlame_UpstreamOfTheUpstream(t *testing.T) {
	for _, f := range []*failure.Failure{
		failure.NoUpstream, failure.UpstreamConnect, failure.UpstreamTimeout, failure.UpstreamTLS,
	} {
		status := `egress; error=` + f.Type + `; details="` + f.Text + `"`
		for _, before := range []string{"", `origin; error=connection_refused; details="x", `} {
			v := judgeReply(&proxydial.Reply{Status: f.Status, ProxyStatus: before + status})
			if v.Kind != health.SoftFail || v.Failure != failure.UpstreamPath || v.Failure.Unreached() || destination.Chargeable(v.Failure) {
				t.Errorf("%s: %v, %v", f.Text, v.Kind, v.Failure)
			}
			if e := (&Error{Verdict: v}); !e.OwnFault() || !e.Elsewhere() {
				t.Errorf("%s: neither a fallback nor another upstream is asked", f.Text)
			}
		}
	}
	for _, f := range []*failure.Failure{failure.UpstreamGateway, failure.UpstreamSilent, failure.UpstreamPath} {
		v := judgeReply(&proxydial.Reply{Status: f.Status, ProxyStatus: `egress; error=` + f.Type + `; details="` + f.Text + `"`})
		if v.Kind != health.SoftFail || v.Failure != failure.UpstreamGateway {
			t.Errorf("%s: %v, %v", f.Text, v.Kind, v.Failure)
		}
	}
}

// What an origin can write of upstream proxies behind this one takes nobody out.
func TestBlame_DetailsOfAnOrigin(t *testing.T) {
	reply := &proxydial.Reply{Status: 503, ProxyStatus: `pone; error=connection_refused; details="` + failure.NoUpstream.Text + `"`}
	if v := judgeReply(reply); v.Kind != health.SoftFail {
		t.Errorf("to CONNECT: %v, %v", v.Kind, v.Failure)
	}
	if v := JudgeAnswer(reply, false); v.Kind != health.Success {
		t.Errorf("to an exchange: %v, %v", v.Kind, v.Failure)
	}
}

// TestJudgeTunnel_Login: only an answer that says so is a refusal of the credentials. A
// SOCKS upstream that breaks off in the login fails, as at any other time.
func TestJudgeTunnel_Login(t *testing.T) {
	for _, err := range []error{
		io.ErrUnexpectedEOF, syscall.ECONNRESET, os.ErrDeadlineExceeded, &proxydial.MalformedError{Reason: "SOCKS login version 0"},
	} {
		e := &proxydial.Error{Stage: proxydial.StageLogin, Err: err}
		if v := judgeTunnel(t.Context(), e); v.Kind != health.Failure && v.Kind != health.ConnectFailure || v.Failure == failure.UpstreamAuth || v.Relayed {
			t.Errorf("%v: %+v", err, v)
		}
		if err := checkError(e); errors.Is(err, health.ErrUnauthorized) || !errors.Is(err, health.ErrUnreachable) {
			t.Errorf("a check: %v", err)
		}
	}
}

// A challenge to us is never what the origin is told to have said, and costs an upstream
// that we send no credentials nothing: what the client is told says which it is.
func TestBlame_Challenges(t *testing.T) {
	for name, tc := range map[string]struct {
		reply         proxydial.Reply
		authenticates bool
		made          bool
		kind          health.Kind
		failure       *failure.Failure
	}{
		"407, with credentials":                  {proxydial.Reply{Status: 407}, true, true, health.Failure, failure.UpstreamAuth},
		"407, without":                           {proxydial.Reply{Status: 407}, false, true, health.Neutral, failure.UpstreamChallenge},
		"401 of tinyproxy, with":                 {proxydial.Reply{Status: 401, Server: "tinyproxy/1.11.1"}, true, true, health.Failure, failure.UpstreamAuth},
		"401 of tinyproxy, without":              {proxydial.Reply{Status: 401, Server: "tinyproxy/1.11.1"}, false, true, health.Neutral, failure.UpstreamChallenge},
		"401 of an origin, relayed":              {proxydial.Reply{Status: 401, Server: "tinyproxy/1.11.1", Via: "1.1 tinyproxy (tinyproxy/1.11.1)"}, true, false, 0, nil},
		"401 of an origin behind something else": {proxydial.Reply{Status: 401, Server: "nginx"}, true, false, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if made := MadeByUpstream(&tc.reply); made != tc.made {
				t.Fatalf("made by the upstream: %v", made)
			}
			if !tc.made {
				return
			}
			v := JudgeAnswer(&tc.reply, tc.authenticates)
			if v.Kind != tc.kind || v.Failure != tc.failure || !v.Relayed {
				t.Errorf("%v, %v, relayed: %v", v.Kind, v.Failure, v.Relayed)
			}
		})
	}
}

// What goes wrong in the TLS handshake with an upstream is told apart: a certificate, time,
// and the rest.
func TestJudgeTunnel_TLS(t *testing.T) {
	for _, tc := range []struct {
		err     error
		failure *failure.Failure
	}{
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, failure.UpstreamCertificate},
		{x509.HostnameError{Certificate: new(x509.Certificate), Host: "x"}, failure.UpstreamCertificate},
		{context.DeadlineExceeded, failure.UpstreamTLSTimeout},
		{io.EOF, failure.UpstreamTLS},
		{tls.AlertError(42), failure.UpstreamTLS},
	} {
		e := &proxydial.Error{Stage: proxydial.StageTLS, Err: tc.err}
		if v := judgeTunnel(t.Context(), e); v.Kind != health.ConnectFailure || v.Failure != tc.failure {
			t.Errorf("%v: %v, %v", tc.err, v.Kind, v.Failure)
		}
	}
	e := &proxydial.Error{Stage: proxydial.StageTLS, Err: errors.New("tls: failed to verify certificate")}
	if text := e.Error(); text != "upstream proxy: tls: failed to verify certificate" {
		t.Error(text)
	}
}
