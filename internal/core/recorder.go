package core

import (
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Recorder is told what becomes of requests, behind every door. It must not block, and
// must hold nothing of a request.
type Recorder interface {
	// Begin tells of a request that is being served, until Ended is called.
	Begin(use upstream.Use)
	// Ended tells of a request that is over, or whose tunnel stands.
	Ended(t *Request)
	// Pool returns what is told of pooled connections, directly or through a group. It is
	// asked once for each dial.
	Pool(group string) origin.Recorder
	// Stands tells of a tunnel that stands, and returns what is to be told at its end. It
	// holds nothing of the request. It is called at the bottom of a small stack, where a
	// few frames more cost a copy of the stack.
	Stands(t *Request) (ended func(relay.Result))
}

// Enter tells the recorder of a request that is about to be served. Record is to be called
// at its end, whatever that is.
func (t *Request) Enter() {
	if t.Start = time.Now(); t.Proxy.Recorder != nil {
		t.Proxy.Recorder.Begin(t.Use)
	}
}

// Record tells the recorder what has become of the request, the first time that it is
// called.
func (t *Request) Record() {
	if t.recorded {
		return
	}
	t.recorded = true
	t.countRule()
	if t.Proxy.Recorder != nil {
		t.Proxy.Recorder.Ended(t)
	}
}

// countRule counts the access rule that has decided about the request. One that did not get
// as far as a route, and was not refused by a rule, was decided by none.
func (t *Request) countRule() {
	access := t.Proxy.Access
	switch {
	case access == nil:
	case t.Outcome.Failure != nil && t.Outcome.Failure.Blame == failure.BlamePolicy:
		access.CountRefused(t.Outcome.Err, time.Now())
	case t.Route != nil:
		addr := t.Outcome.Remote
		if t.Outcome.Upstream != "" {
			addr = netip.Addr{} // it is the upstream's
		}
		access.CountPassed(t.Target, addr, time.Now())
	}
}

// recordTunnel tells the recorder that the tunnel stands, and returns what is to be called
// at its end, which holds nothing of the request.
func (t *Request) recordTunnel() (ended func(relay.Result)) {
	t.Outcome.Duration = time.Since(t.Start)
	t.Record()
	if t.Proxy.Recorder == nil {
		return func(relay.Result) {}
	}
	return t.Proxy.Recorder.Stands(t)
}

// dialed tells the recorder of a dial for a pool, directly or through a group, that has
// ended with c or with err.
func (p *Proxy) dialed(group string, c *origin.Conn, err error) {
	if p.Recorder == nil {
		return
	}
	to := p.Recorder.Pool(group)
	to.Dialed(err)
	if c != nil {
		c.Recorder = to
	}
}
