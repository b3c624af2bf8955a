package admin

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// This file contains the views of destinations, names, rules and reloads, and the snapshot
// of everything.

// Destination is a destination that has failed lately on one way, and was not reached since.
type Destination struct {
	Handlers    []string  `json:"handlers" doc:"The places of the handlers that share what is known of it."`
	Destination string    `json:"destination" doc:"Its host and port, behind https:// where exchanges go there over TLS."`
	Group       string    `json:"group,omitempty" doc:"The group that it was asked for through; absent directly."`
	Upstream    string    `json:"upstream,omitempty" doc:"The URL of the upstream without credentials, while it is in the group."`
	UpstreamID  string    `json:"upstream_id,omitempty" doc:"What the upstream is known by."`
	Circuit     string    `json:"circuit" doc:"closed: it is asked for still; open: it is not; half_open: one request finds out."`
	Failures    int       `json:"failures" doc:"Failures in a row within the window."`
	Until       time.Time `json:"until,omitzero" doc:"When a request may try again; only while the circuit is open."`
	LastFailure time.Time `json:"last_failure" doc:"When it has failed last."`
	Reason      string    `json:"reason" doc:"How, as an error type of RFC 9209."`
	Blame       string    `json:"blame" doc:"Whom that is charged to."`
	Error       string    `json:"error" doc:"What went wrong."`
}

func viewDestinations(c *call) (list[Destination], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[Destination]{}, err
	}
	return destinationsOf(reports(handlers), asked[string](c, "circuit"), c.limit()), nil
}

// destinationsOf are those that fail, open circuits first, then by their last failure.
func destinationsOf(handlers []reported, circuit string, limit int) list[Destination] {
	type key struct {
		name, group string
		via         uint64
		last        time.Time // the same failure is in the same circuits
	}
	type failing struct {
		destination.Failing
		handlers []reported
	}
	known := make(map[key]*failing)
	var all []*failing
	for _, h := range handlers {
		for _, f := range h.Destinations() {
			if circuit != "" && f.Circuit.String() != circuit {
				continue
			}
			k := key{f.Name, f.Group, f.Via, f.Last}
			if known[k] == nil {
				known[k] = &failing{Failing: f}
				all = append(all, known[k])
			}
			known[k].handlers = append(known[k].handlers, h)
		}
	}
	slices.SortFunc(all, func(a, b *failing) int {
		shut := func(f *failing) int {
			if f.Circuit == health.Closed {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(shut(a), shut(b)), b.Last.Compare(a.Last), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Via, b.Via))
	})
	out := newList[Destination](limit)
	for _, f := range all {
		out.add(func() Destination { return destinationOf(&f.Failing, f.handlers) })
	}
	return out
}

func destinationOf(f *destination.Failing, handlers []reported) Destination {
	d := Destination{
		Destination: f.Name, Group: f.Group, Circuit: f.Circuit.String(), Failures: f.Failures, Until: f.Until,
		LastFailure: f.Last, Error: f.Err,
	}
	if f.Cause != nil {
		d.Reason, d.Blame = f.Cause.Type, string(f.Cause.Blame)
	}
	for _, h := range handlers {
		d.Handlers = append(d.Handlers, h.place)
	}
	for i := range handlers[0].Groups {
		g := &handlers[0].Groups[i]
		for m := range g.Members {
			if g.Name == f.Group && g.Members[m].Key == f.Via {
				d.Upstream, d.UpstreamID = g.Members[m].Name, g.Members[m].ID
			}
		}
	}
	return d
}

// DNS is the cache of a resolver at a moment.
type DNS struct {
	Handler   string    `json:"handler" doc:"The place of the handler. Handlers with the same resolver settings share a cache."`
	Names     int       `json:"names" doc:"Names that are remembered."`
	MaxNames  int       `json:"max_names" doc:"How many may be."`
	Questions int       `json:"questions" doc:"Questions that are under way."`
	Unawaited int       `json:"questions_unawaited" doc:"Those of them that nobody waits for any more."`
	Entries   []DNSName `json:"entries,omitempty" doc:"What is remembered of the name that was asked about."`
}

// DNSName is what is remembered of a name in one address family.
type DNSName struct {
	Family     string    `json:"family" doc:"IPv4 or IPv6."`
	Source     string    `json:"source" doc:"dns, or fixed: the configuration or the hosts file."`
	Addresses  []string  `json:"addresses" doc:"The addresses; none where there are none."`
	Error      string    `json:"error,omitempty" doc:"Why there are none."`
	Expires    time.Time `json:"expires,omitzero" doc:"When it is asked for again."`
	StaleUntil time.Time `json:"stale_until,omitzero" doc:"Until when the addresses are used if that fails."`
	Stale      bool      `json:"stale" doc:"Whether it has failed, and they are."`
}

func viewDNS(c *call) (list[DNS], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[DNS]{}, err
	}
	name, err := nameOf(asked[string](c, "name"))
	if err != nil {
		return list[DNS]{}, err
	}
	return dnsOf(handlers, name, c.limit()), nil
}

func dnsOf(handlers []selected, name string, limit int) list[DNS] {
	out := newList[DNS](limit)
	for _, h := range handlers {
		out.add(func() DNS {
			r := h.Names()
			d := DNS{Handler: h.place, Names: r.Names, MaxNames: r.MaxNames, Questions: r.Questions, Unawaited: r.Left}
			if name == "" {
				return d
			}
			for _, k := range h.Look(name) {
				n := DNSName{Family: k.Family.String(), Source: "dns", Addresses: []string{}, Expires: k.Expires, StaleUntil: k.StaleUntil, Stale: k.Stale}
				if k.Fixed {
					n.Source = "fixed"
				}
				for _, a := range k.Addrs {
					n.Addresses = append(n.Addresses, a.String())
				}
				if k.Err != nil {
					n.Error = cut(k.Err.Error())
				}
				d.Entries = append(d.Entries, n)
			}
			return d
		})
	}
	return out
}

// Rule is a subject or a file of an access rule, or a default that has refused a request.
type Rule struct {
	Handler string    `json:"handler" doc:"The place of the handler."`
	Rule    string    `json:"rule" doc:"The rule, as explain tells it."`
	Default bool      `json:"default" doc:"Whether no rule has decided but a default: what is refused without a rule. Only those that have decided are told of."`
	Action  string    `json:"action" doc:"allow or deny."`
	Hits    uint64    `json:"hits" doc:"Requests that it has decided about. Over reloads, they are kept for as long as the text of the rule stays."`
	LastHit time.Time `json:"last_hit,omitzero" doc:"When that was the last time, to the second; absent for never."`
	Entries *int      `json:"entries,omitempty" doc:"Of a file: the subjects that were read from it."`

	Loaded time.Time `json:"loaded,omitzero" doc:"Of a file: when it was read."`
	Failed time.Time `json:"failed,omitzero" doc:"Of a file: when the files of the handler could not be read again, so that the old rules stay."`
	Error  string    `json:"error,omitempty" doc:"Of a file: why not."`
}

func viewRules(c *call) (list[Rule], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[Rule]{}, err
	}
	return rulesOf(handlers, c.limit()), nil
}

func rulesOf(handlers []selected, limit int) list[Rule] {
	out := newList[Rule](limit)
	for _, h := range handlers {
		r := h.Rules()
		for i := range r.Rules {
			out.add(func() Rule { return ruleOf(h.place, &r, &r.Rules[i], false) })
		}
		for i := range r.Defaults {
			out.add(func() Rule { return ruleOf(h.place, &r, &r.Defaults[i], true) })
		}
	}
	return out
}

func ruleOf(place string, r *acl.Report, told *acl.RuleReport, byDefault bool) Rule {
	rule := Rule{Handler: place, Rule: told.Text, Default: byDefault, Action: "deny", Hits: told.Hits, LastHit: told.Last}
	if told.Allow {
		rule.Action = "allow"
	}
	if f := told.File; f != nil {
		rule.Entries, rule.Loaded, rule.Failed, rule.Error = &f.Entries, r.Loaded, r.Failed, r.Error
	}
	return rule
}

// Reload is what the last reload has kept of a handler.
type Reload struct {
	Handler             string    `json:"handler" doc:"The place of the handler."`
	Time                time.Time `json:"time" doc:"When it was."`
	ConnectionsKept     Kept      `json:"connections_kept" doc:"Pooled connections that were taken over."`
	ConnectionsClosed   Kept      `json:"connections_closed" doc:"Pooled connections that were not: idle ones are closed, active ones finish."`
	UpstreamsKept       int       `json:"upstreams_kept" doc:"Upstreams that are as they were."`
	UpstreamsChanged    int       `json:"upstreams_changed" doc:"Upstreams that keep their health, but not their connections."`
	UpstreamsNew        int       `json:"upstreams_new" doc:"Upstreams that were not there before."`
	UpstreamsRemoved    int       `json:"upstreams_removed" doc:"Upstreams that are not there any more."`
	FailingDestinations int       `json:"failing_destinations" doc:"Failing destinations that are still known."`
	NamesKept           bool      `json:"names_kept" doc:"Whether the DNS cache was kept."`
	Tunnels             int       `json:"tunnels" doc:"Tunnels that went on."`
}

// Kept are connections by what they did.
type Kept struct {
	Idle   int `json:"idle" doc:"Connections that waited for a request."`
	Active int `json:"active" doc:"Connections that carried one."`
}

func viewReloads(c *call) (list[Reload], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[Reload]{}, err
	}
	return reloadsOf(handlers, c.limit()), nil
}

func reloadsOf(handlers []selected, limit int) list[Reload] {
	out := newList[Reload](limit)
	for _, h := range handlers {
		if r := h.LastReload(); r != nil {
			out.add(func() Reload { return *r })
		}
	}
	return out
}

// Snapshot is all of it at once.
type Snapshot struct {
	Time         time.Time         `json:"time" doc:"When it was taken."`
	Version      string            `json:"version" doc:"The version of this module."`
	Handlers     []string          `json:"handlers" doc:"The places of the handlers."`
	Emergency    EmergencyState    `json:"emergency" doc:"See /egress/emergency."`
	Upstreams    list[Upstream]    `json:"upstreams" doc:"See /egress/upstreams."`
	Groups       list[Group]       `json:"groups" doc:"See /egress/groups."`
	Pools        list[Pool]        `json:"pools" doc:"See /egress/pools."`
	Destinations list[Destination] `json:"destinations" doc:"See /egress/destinations."`
	DNS          list[DNS]         `json:"dns" doc:"See /egress/dns."`
	Rules        list[Rule]        `json:"rules" doc:"See /egress/rules."`
	Reload       list[Reload]      `json:"reload" doc:"See /egress/reload."`
	Users        list[User]        `json:"users" doc:"See /egress/users."`
	Tunnels      list[Tunnel]      `json:"tunnels" doc:"See /egress/tunnels; by rate."`
}

func viewSnapshot(c *call) (*Snapshot, error) {
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	books, err := c.books()
	if err != nil {
		return nil, err
	}
	now, reported, most := time.Now(), reports(handlers), c.limit()
	users, top := newUserTally(handlers), tunnelRanking{limit: most, now: now}
	each(books, func(e tunnels.Entry, c carried) {
		users.add(e, c)
		top.add(e, c)
	})
	s := &Snapshot{
		Time: now, Version: Version(), Handlers: []string{}, Emergency: emergencyState(),
		Upstreams: upstreamsOf(reported, "", anyOf, most), Groups: groupsOf(reported, anyOf, most), Pools: poolsOf(reported, most),
		Destinations: destinationsOf(reported, "", most), DNS: dnsOf(handlers, "", most), Rules: rulesOf(handlers, most),
		Reload: reloadsOf(handlers, most), Users: users.list(most), Tunnels: top.list(),
	}
	for _, h := range handlers {
		s.Handlers = append(s.Handlers, h.place)
	}
	return s, nil
}
