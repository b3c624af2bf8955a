package core

import (
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Report is what a proxy is at a moment, for people and programs that look.
type Report struct {
	Pool              connpool.Stats // of connections that lead directly to origins
	Requests, Retries int64          // exchanges under way; of the direct ones, retries
	Tunnels           tunnels.Report
	Groups            []upstream.Report // by name
	Failing           int               // destinations that have failed lately, on all ways
	Open              int               // of these, those that are not asked for as usual
	Names             int               // that are remembered of what DNS was asked
	RetryBudget       float64           // of the direct exchanges: the part that is taken
	Reload            *Reload           // the last one; nil where there was none
}

// Reload is what the last reload has kept, and what it has left to end.
type Reload struct {
	Connections, Upstreams, Tunnels, Destinations int // that were taken over
	LeftConnections, LeftUpstreams                int // that end
}

// Report tells what the proxy is now, but for what belongs to its routes: groups, failing
// destinations and names.
func (p *Proxy) Report() Report {
	r := Report{Pool: p.Pool.Stats(), Tunnels: p.Tunnels.Value.Report()}
	r.Requests, r.Retries = p.Budget.InFlight()
	r.RetryBudget = p.Budget.Used()
	return r
}
