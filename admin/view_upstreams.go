package admin

import (
	"slices"
	"strconv"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Upstream is an upstream proxy at a moment. It has what an upstream of Caddy's
// `GET /reverse_proxy/upstreams` has.
type Upstream struct {
	Address     string `json:"address" doc:"Where it is dialed, in Caddy's notation: host:port, or unix/ and a path."`
	NumRequests int64  `json:"num_requests" doc:"Exchanges and tunnels that are on it, from all handlers with a group of that name."`
	Fails       int    `json:"fails" doc:"Requests that failed through its fault within the window of passive health."`

	ID       string   `json:"id" doc:"What it is known by: the same over reloads, and in every handler. Nothing of its credentials can be read in it."`
	URL      string   `json:"url" doc:"Its URL without credentials, with a number (#2) for those of a group that share it."`
	Group    string   `json:"group" doc:"The group that it belongs to."`
	Handlers []string `json:"handlers" doc:"The places of the handlers that have it with these settings."`

	State      string         `json:"state" doc:"The word for its state."`
	InRotation bool           `json:"in_rotation" doc:"Whether its health lets requests pass."`
	Available  bool           `json:"available" doc:"Whether the next request may be given to it: it is in rotation or its group is in panic, and it is not at a limit."`
	Since      time.Time      `json:"since" doc:"When it came to be in rotation, out of it, or spared, as it is now; when it became known, if that has not changed."`
	Why        string         `json:"why,omitempty" doc:"The reason of that, as in the log; absent if it has not changed."`
	Admin      string         `json:"admin" doc:"What the operator wants: ready, drain or maint."`
	Ordered    *UpstreamOrder `json:"ordered,omitempty" doc:"What the operator has ordered through this API; absent where it is as configured."`
	Active     string         `json:"active" doc:"What active checks have found: unknown, up or down."`
	Circuit    string         `json:"circuit" doc:"What requests have found: closed, open or half_open."`

	NextProbe time.Time `json:"next_probe,omitzero" doc:"When a request may try it again; only while its circuit is open."`
	Overload  time.Time `json:"overloaded_until,omitzero" doc:"Until when it has asked for less."`

	Priority int     `json:"priority" doc:"Its tier: lower ones are used first."`
	Weight   int     `json:"weight" doc:"Its share among those of its priority."`
	Factor   float64 `json:"weight_ratio" doc:"The part of its weight that it has now: less than 1 in slow start and overload, and where that is ordered."`
	Latency  seconds `json:"latency_seconds,omitempty" doc:"Mean time (EWMA) that it takes to answer; absent while unknown."`

	Exchanges int64             `json:"exchanges" doc:"Exchanges that are on it."`
	Tunnels   int64             `json:"tunnels" doc:"Tunnels that go through it."`
	Failures  int               `json:"consecutive_failures" doc:"Failures in a row."`
	Passed    int               `json:"passed" doc:"Requests that went well within the window of passive health."`
	Counts    map[string]uint64 `json:"counts" doc:"Attempts since it became known, by what they told of its health."`
	Checks    map[string]uint64 `json:"checks" doc:"Active checks since it became known, by outcome."`
	Changes   map[string]uint64 `json:"transitions" doc:"Changes of its state since it became known, by event."`

	LastError *UpstreamError `json:"last_error,omitempty" doc:"The last failure of a request that was, or might have been, its fault."`
	LastCheck *LastCheck     `json:"last_check,omitempty" doc:"The last active check; absent where there was none."`
	NextCheck time.Time      `json:"next_check,omitzero" doc:"When it is checked next."`
	Pool      Connections    `json:"pool" doc:"Its pooled connections for exchanges."`
}

// UpstreamError is a failure of a request through an upstream.
type UpstreamError struct {
	Time  time.Time `json:"time" doc:"When it happened."`
	Kind  string    `json:"kind" doc:"What it told of the health of the upstream."`
	Error string    `json:"error" doc:"What went wrong."`
}

// LastCheck is the last active check of an upstream.
type LastCheck struct {
	Time    time.Time `json:"time" doc:"When it ended."`
	Outcome string    `json:"outcome" doc:"passed, failed, inconclusive or unauthorized."`
	Error   string    `json:"error,omitempty" doc:"Why it did not pass."`
}

// Connections are those of a pool.
type Connections struct {
	Active  int `json:"active" doc:"Connections that carry a request."`
	Idle    int `json:"idle" doc:"Connections that wait for one."`
	Dialing int `json:"dialing" doc:"Connections that are being dialed."`
	Waiting int `json:"waiting" doc:"Requests that wait for a connection, since a limit is reached."`
}

func connectionsOf(s connpool.Stats) Connections {
	return Connections{Active: s.Leased, Idle: s.Idle, Dialing: s.Dialing, Waiting: s.Pending}
}

func viewUpstreams(c *call) ([]Upstream, error) {
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	state := asked[string](c, "state")
	wanted := func(m *upstream.MemberReport) bool { return state == "" || m.State() == state }
	list := upstreamsOf(reports(handlers), asked[string](c, "group"), wanted, c.limit())
	c.w.Header().Set("X-Total-Count", strconv.Itoa(list.Total))
	return list.Items, nil
}

// upstreamsOf are the upstreams of some handlers, in the order of groups and members. One
// that several handlers have is told of once. group is "" for any.
func upstreamsOf(handlers []reported, group string, wanted func(*upstream.MemberReport) bool, limit int) list[Upstream] {
	type told struct {
		*upstream.MemberReport
		group string
		at    int // in the list; -1 where it was cut off
	}
	known := make(map[string][]*told) // by id
	out := newList[Upstream](limit)
	for _, h := range handlers {
		for g := range h.Groups {
			g := &h.Groups[g]
			if group != "" && g.Name != group {
				continue
			}
			for i := range g.Members {
				m := &g.Members[i]
				if !wanted(m) {
					continue
				}
				if at := slices.IndexFunc(known[m.ID], func(t *told) bool { return t.Same(m) }); at >= 0 {
					if t := known[m.ID][at]; t.at >= 0 {
						out.Items[t.at].Handlers = append(out.Items[t.at].Handlers, h.place)
					}
					continue
				}
				t := &told{m, g.Name, -1}
				known[m.ID] = append(known[m.ID], t)
				if out.add(func() Upstream { return upstreamOf(m, g.Name, h.place) }) {
					t.at = len(out.Items) - 1
				}
			}
		}
	}
	return out.done()
}

func upstreamOf(m *upstream.MemberReport, group, place string) Upstream {
	u := Upstream{
		Address: m.Address, NumRequests: m.Exchanges + m.Tunnels, Fails: m.Failed,
		ID: m.ID, URL: m.Name, Group: group, Handlers: []string{place},
		State: m.State(), InRotation: m.InRotation(), Available: m.Pickable, Why: string(m.Why), Since: m.Since,
		Admin: m.Admin.String(), Active: m.Active.String(), Circuit: m.Circuit.String(),
		NextProbe: m.OpenUntil, Overload: m.Overloaded,
		Priority: m.Priority, Weight: m.Weight, Factor: m.Factor, Latency: secondsOf(m.Latency),
		Exchanges: m.Exchanges, Tunnels: m.Tunnels, Failures: m.Failures, Passed: m.Passed,
		Counts: make(map[string]uint64), Checks: make(map[string]uint64), Changes: make(map[string]uint64),
		NextCheck: m.NextCheck, Pool: connectionsOf(m.Pool),
	}
	if o, ok := orders.Of.Upstream(m.ID); ok {
		ordered := upstreamOrderOf(m.ID, &o)
		u.Ordered = &ordered
	}
	if u.Since.IsZero() {
		u.Since = m.Known
	}
	for k, n := range m.Counts.Results {
		count(u.Counts, health.Kind(k).String(), n)
	}
	for o, n := range m.Counts.Checks {
		count(u.Checks, health.CheckOutcome(o).String(), n)
	}
	for i, n := range m.Counts.Transitions {
		count(u.Changes, string(health.Events[i]), n)
	}
	if f := m.LastFault; f != nil {
		u.LastError = &UpstreamError{f.At, f.Kind.String(), f.Text}
	}
	if !m.LastCheck.IsZero() {
		u.LastCheck = &LastCheck{Time: m.LastCheck, Outcome: m.LastOutcome.String()}
		if m.LastError != nil {
			u.LastCheck.Error = cut(m.LastError.Error())
		}
	}
	return u
}

// count adds what has been counted at all.
func count(to map[string]uint64, name string, n uint64) {
	if n > 0 {
		to[name] = n
	}
}

// Group is a group of upstreams at a moment.
type Group struct {
	Handler    string `json:"handler" doc:"The place of its handler."`
	Name       string `json:"name" doc:"Its name."`
	Members    int    `json:"members" doc:"Its upstreams."`
	Ready      int    `json:"ready" doc:"Those that the operator has not taken out."`
	InRotation int    `json:"in_rotation" doc:"Those of them whose health lets requests pass."`
	Available  int    `json:"available" doc:"Those that the next request may be given to."`
	Panic      bool   `json:"panic" doc:"Whether too few are in rotation, so that open circuits are ignored."`
	Requests   int64  `json:"requests" doc:"Requests that are under way through it."`
	Retries    int64  `json:"retries" doc:"Retries and hedges among them that have a place of the budget."`

	States map[string]int `json:"states" doc:"How many upstreams are in which state."`
}

func viewGroups(c *call) (list[Group], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[Group]{}, err
	}
	return groupsOf(reports(handlers), anyOf, c.limit()), nil
}

func groupsOf(handlers []reported, wanted func(*upstream.Report) bool, limit int) list[Group] {
	out := newList[Group](limit)
	for _, h := range handlers {
		for i := range h.Groups {
			g := &h.Groups[i]
			if !wanted(g) {
				continue
			}
			out.add(func() Group {
				v := Group{
					Handler: h.place, Name: g.Name, Members: len(g.Members), Ready: g.Ready, InRotation: g.InRotation,
					Available: g.Available, Panic: g.Panic, Requests: g.Requests, Retries: g.Retries, States: make(map[string]int),
				}
				for m := range g.Members {
					v.States[g.Members[m].State()]++
				}
				return v
			})
		}
	}
	return out.done()
}

// Pool is a pool of connections at a moment.
type Pool struct {
	Handler  string `json:"handler" doc:"The place of its handler."`
	Path     string `json:"path" doc:"direct, for connections to origins, or upstream."`
	Group    string `json:"group,omitempty" doc:"The group of the upstream."`
	Upstream string `json:"upstream,omitempty" doc:"The URL of the upstream without credentials."`
	ID       string `json:"upstream_id,omitempty" doc:"What the upstream is known by."`
	Hosts    int    `json:"hosts" doc:"Hosts with a connection, or with a request that waits for one."`

	Connections
}

func viewPools(c *call) (list[Pool], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[Pool]{}, err
	}
	return poolsOf(reports(handlers), c.limit()), nil
}

func poolsOf(handlers []reported, limit int) list[Pool] {
	out := newList[Pool](limit)
	for _, h := range handlers {
		out.add(func() Pool {
			return Pool{Handler: h.place, Path: "direct", Hosts: h.Pool.Keys, Connections: connectionsOf(h.Pool)}
		})
		for i := range h.Groups {
			g := &h.Groups[i]
			for i := range g.Members {
				m := &g.Members[i]
				out.add(func() Pool {
					return Pool{h.place, "upstream", g.Name, m.Name, m.ID, m.Pool.Keys, connectionsOf(m.Pool)}
				})
			}
		}
	}
	return out.done()
}

// attemptsOf counts what requests have told of the health of an upstream.
func attemptsOf(m *upstream.MemberReport) Attempts {
	a := Attempts{ID: m.ID, URL: m.Name, Known: m.Known}
	for k, n := range m.Counts.Results {
		switch health.Kind(k) {
		case health.Neutral, health.Cancelled:
		case health.ConnectFailure, health.Failure, health.AuthFault, health.Overload:
			a.All, a.Failed = a.All+n, a.Failed+n
		default: // what may be the destination's is not held against it here
			a.All += n
		}
	}
	return a
}
