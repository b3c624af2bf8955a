package exchange

import (
	"errors"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what is done about upstreams that go on relaying behind a response (see
// upstream.Member.NoteRelay).

// relaysOn reports whether the upstream may go on relaying behind the response, so that the
// next request on the connection could get to the origin of this one. Of an upstream that
// does not name itself that is possible behind a response that has no Content-Length or none
// but 0, and behind an informational one.
func (t *Exchange) relaysOn(c *origin.Conn, resp h1.Response) bool {
	if !t.Absolute() {
		return false
	}
	m := t.Ways.Current.Member
	if (t.interim || resp.Framing != h1.ByLength || resp.Length == 0) && !m.Vouch(c) {
		return true
	}
	return !m.TakesAgain(c)
}

// errRelayedOn is why a response is not believed.
var errRelayedOn = errors.New("the upstream adds no Via: the response may be of the exchange before on this connection")

// noteRelay takes from a head what it says of the upstream, which may be that the head itself
// is not to be believed: it has come behind a response that the connection was used again
// after only since the upstream seemed to be another one.
func (t *Exchange) noteRelay(hd *h1.Head) error {
	if !t.Absolute() {
		return nil
	}
	m := t.Ways.Current.Member
	if !t.endsAt(m) {
		m.NoteRelay(hd)
	}
	if !m.Trusts(t.conn) {
		return &retry.StaleError{Written: true, Err: failure.Terminated.Because(errRelayedOn)}
	}
	return nil
}

// endsAt reports whether the upstream is asked itself: a proxy need not name itself in an
// answer of its own.
func (t *Exchange) endsAt(m *upstream.Member) bool {
	n, ok := t.MaxForwards()
	return ok && n == 1 || t.Target.Host == m.Spec.Addr.Host && t.Target.Port == m.Spec.Addr.Port
}
