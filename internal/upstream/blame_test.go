package upstream

import (
	"context"
	"net"
	"net/http"
	"syscall"
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
		verdict := JudgeTunnel(t.Context(), &proxydial.Error{Stage: proxydial.StageDial, Err: err})
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
