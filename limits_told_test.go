package egress

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
		if v := judgeReply(&proxydial.Reply{Status: status}); v.kind != health.Neutral || v.failure != failure.UpstreamRequest {
			t.Errorf("%d: %v, %v", status, v.kind, v.failure)
		}
	}
	if v := judgeReply(&proxydial.Reply{Status: 405}); v.kind != health.SoftFail {
		t.Errorf("405: %v", v.kind)
	}
}

// An overload that an origin may have written lasts a few seconds at most; that of a
// CONNECT is the upstream's own.
func TestBlame_RelayedOverload(t *testing.T) {
	reply := &proxydial.Reply{Status: http.StatusTooManyRequests, RetryAfter: "300"}
	if v := judgeAnswer(reply, false); v.kind != health.Overload || v.retryAfter != maxRelayedOverload {
		t.Errorf("relayed: %v for %s", v.kind, v.retryAfter)
	}
	if v := judgeReply(reply); v.kind != health.Overload || v.retryAfter != 300*time.Second {
		t.Errorf("of its own: %v for %s", v.kind, v.retryAfter)
	}
}

// The Via of a request is bounded.
func TestCheckVia(t *testing.T) {
	for n, want := range map[int]error{1 << 10: nil, 3 << 10: failure.Via} {
		tr := &transaction{h: &Handler{via: newViaNames("caddy")}, r: &http.Request{Header: http.Header{"Via": {strings.Repeat("x", n)}}}}
		if err := tr.checkVia(); err != want {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A question that had no turn charges neither the destination nor an upstream, a silent
// DNS server does.
func TestNoTurnForAQuestion_Blame(t *testing.T) {
	for cause, charged := range map[error]bool{dnscache.ErrNoTurn: false, context.DeadlineExceeded: true} {
		err := &net.DNSError{UnwrapErr: cause, Err: cause.Error(), Name: "origin.test", IsTimeout: charged, IsTemporary: !charged}
		if destination.Chargeable(err) != charged {
			t.Errorf("%v: the destination is charged: %t", cause, !charged)
		}
		verdict := judgeTunnel(t.Context(), &proxydial.Error{Stage: proxydial.StageDial, Err: err})
		if (verdict.kind != health.Neutral) != charged {
			t.Errorf("%v: an upstream is judged %v", cause, verdict.kind)
		}
	}
}

// Squid 5.7 says that reading has failed, without an error of the system, for a name
// that has no addresses.
func TestBlame_SquidWithoutAddresses(t *testing.T) {
	for words, want := range map[string]*failure.Failure{
		"ERR_READ_ERROR 0": failure.DNS, "ERR_READ_ERROR 104": failure.Terminated, "ERR_DNS_FAIL 0": failure.DNS,
	} {
		if v := judgeReply(&proxydial.Reply{Status: 502, SquidError: words}); v.failure != want || v.kind != health.Success {
			t.Errorf("%s: %v, %v", words, v.kind, v.failure)
		}
	}
}
