package metrics

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Handler is a handler that serves.
type Handler interface {
	// Place is what people know it by.
	Place() string
	// Report tells what it is now.
	Report() core.Report
	// Rules tells what its access rules have done.
	Rules() acl.Report
}

// maxMembers is how many members of a group have series of their own. Those of files and
// dynamic sources may be any number; what is beyond is summed up as otherMembers.
const (
	maxMembers   = 500
	otherMembers = "_other"
)

// collector makes metrics of what handlers report when somebody scrapes.
type collector struct {
	version  string
	handlers func() []Handler
}

// Register makes all metrics known to the registry of a configuration, which may have been
// done before. The handlers are those that serve when somebody scrapes.
func Register(registry prometheus.Registerer, version string, handlers func() []Handler) error {
	all := []prometheus.Collector{&collector{version, handlers}}
	for _, f := range families {
		all = append(all, f)
	}
	for _, c := range all {
		if err := registry.Register(c); err != nil {
			if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); !again {
				return err
			}
		}
	}
	return nil
}

// measured describes what is measured when somebody scrapes.
type measured struct {
	desc   *prometheus.Desc
	typ    prometheus.ValueType
	labels []string
	order  []int // of labels, by name
}

var described []*measured

func describe(typ prometheus.ValueType, name, help string, labels ...string) *measured {
	kind := "gauge"
	if typ == counterType {
		kind = "counter"
	}
	m := &measured{desc: prometheus.NewDesc(enter(name, kind, help, labels), help, labels, nil), typ: typ, labels: labels}
	for i := range labels {
		m.order = append(m.order, i)
	}
	slices.SortFunc(m.order, func(a, b int) int { return strings.Compare(labels[a], labels[b]) })
	described = append(described, m)
	return m
}

const (
	gaugeType   = prometheus.GaugeValue
	counterType = prometheus.CounterValue
)

var (
	info = describe(gaugeType, "info",
		"Always 1: the version of the module.", "version")
	poolConnections = describe(gaugeType, "pool_connections",
		"Pooled connections for exchanges: to origins directly, and through the members of a group.",
		"handler", "path", "group", "state")
	poolWaiting = describe(gaugeType, "pool_waiting",
		"Exchanges that wait for a connection, since a limit is reached.",
		"handler", "path", "group")
	groupMembers = describe(gaugeType, "group_members",
		"Upstreams of a group.", "handler", "group")
	groupAvailable = describe(gaugeType, "group_available",
		"Upstreams of a group that requests may be given to now.", "handler", "group")
	retriesInFlight = describe(gaugeType, "retries_in_flight",
		"Retries and hedges that are under way and have a place of the budget.", "handler", "path", "group")
	retryBudget = describe(gaugeType, "retry_budget_ratio",
		"The part of the budget of retries that is taken: from 1 on, requests are not tried a third time.", "handler", "path", "group")
	groupPanic = describe(gaugeType, "group_panic",
		"1 while too few upstreams of a group are in rotation, so that it is ignored who is not.", "handler", "group")
	healthy = describe(gaugeType, "upstreams_healthy",
		"Whether an upstream is in rotation: 1 or 0, as in caddy_reverse_proxy_upstreams_healthy.",
		"handler", "group", "upstream")
	state = describe(gaugeType, "upstream_state",
		"1 for the state that an upstream is in.", "handler", "group", "upstream", "state")
	inFlightOf = describe(gaugeType, "upstream_in_flight",
		"Exchanges and tunnels that are on an upstream, from all handlers with a group of that name.",
		"handler", "group", "upstream", "kind")
	weightRatio = describe(gaugeType, "upstream_weight_ratio",
		"The part of its weight that an upstream has now: less than 1 in slow start and overload.",
		"handler", "group", "upstream")
	latency = describe(gaugeType, "upstream_connect_latency_seconds",
		"Mean time (EWMA) that an upstream takes to answer a CONNECT or to begin a response; absent while unknown.",
		"handler", "group", "upstream")
	upstreamRequests = describe(counterType, "upstream_requests_total",
		"Attempts through an upstream, by what they told of its health.",
		"handler", "group", "upstream", "result")
	upstreamChecks = describe(counterType, "upstream_checks_total",
		"Active checks of an upstream.", "handler", "group", "upstream", "result")
	upstreamTransitions = describe(counterType, "upstream_transitions_total",
		"Changes of the state of an upstream, by event.", "handler", "group", "upstream", "event")
	withheld = describe(counterType, "ejections_withheld_total",
		"How often an upstream should have been taken out of rotation and was spared: it was the last one, or max_ejected of its group are out.",
		"handler", "group", "upstream", "cause")
	failing = describe(gaugeType, "destinations_failing",
		"Destinations that have failed lately and are kept track of, their circuits open or not.", "handler")
	circuitsOpen = describe(gaugeType, "destination_circuits_open",
		"Destinations that are not asked for, but for a probe, since they have failed.", "handler")
	names = describe(gaugeType, "dns_cache_entries",
		"Names that are remembered of what DNS servers were asked.", "handler")
	decisions = describe(counterType, "decisions_total",
		"Requests that an access rule has decided about, by its text. Defaults have words of their own.",
		"handler", "rule", "action")
	rulesEntries = describe(gaugeType, "rules_entries",
		"Entries of a file of access rules.", "handler", "file")
	rulesLoaded = describe(gaugeType, "rules_last_reload_success_timestamp_seconds",
		"When the files of access rules were read last.", "handler", "file")
	rulesGood = describe(gaugeType, "rules_last_reload_successful",
		"0 since files of access rules have changed and could not be read: the rules are as they were. 1 otherwise.", "handler")
	reloadKept = describe(gaugeType, "reload_kept",
		"What the last reload has taken over from the configuration before.", "handler", "kind")
	reloadDrained = describe(gaugeType, "reload_drained",
		"What the last reload has not taken over, and has left to end.", "handler", "kind")
)

// Describe implements prometheus.Collector.
func (*collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range described {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	out := &scrape{to, make(map[pair]*dto.LabelPair), make(map[identity]struct{}), time.Now()}
	send(out, info, 1, c.version)
	for _, h := range c.handlers() {
		collectHandler(out, h.Place(), h.Report())
		collectRules(out, h.Place(), h.Rules())
	}
}

func collectHandler(out *scrape, place string, r core.Report) {
	collectPool(out, place, "direct", "", r.Pool)
	send(out, retriesInFlight, float64(r.Retries), place, "direct", "")
	send(out, retryBudget, r.RetryBudget, place, "direct", "")
	send(out, failing, float64(r.Failing), place)
	send(out, circuitsOpen, float64(r.Open), place)
	send(out, names, float64(r.Names), place)
	if l := r.Reload; l != nil {
		collectReload(out, place, l)
	}
	for i := range r.Groups {
		collectGroup(out, place, &r.Groups[i])
	}
}

func collectPool(out *scrape, place, path, group string, s connpool.Stats) {
	for _, of := range []struct {
		state string
		n     int
	}{{"active", s.Leased}, {"idle", s.Idle}, {"dialing", s.Dialing}} {
		send(out, poolConnections, float64(of.n), place, path, group, of.state)
	}
	send(out, poolWaiting, float64(s.Pending), place, path, group)
}

func collectGroup(out *scrape, place string, g *upstream.Report) {
	send(out, groupMembers, float64(len(g.Members)), place, g.Name)
	send(out, groupAvailable, float64(g.Available), place, g.Name)
	send(out, retriesInFlight, float64(g.Retries), place, "upstream", g.Name)
	send(out, retryBudget, g.RetryBudget, place, "upstream", g.Name)
	send(out, groupPanic, oneIf(g.Panic), place, g.Name)
	var pool connpool.Stats
	var rest counted // gauges, which are summed up as they are
	parts := make(map[string]summand)
	for i := range g.Members {
		m := &g.Members[i]
		pool.Leased += m.Pool.Leased
		pool.Idle += m.Pool.Idle
		pool.Dialing += m.Pool.Dialing
		pool.Pending += m.Pool.Pending
		if i >= maxMembers {
			rest.add(m)
			parts[cmp.Or(m.ID, m.Name)] = summand{m.Known, countedOf(m).tally()}
			continue
		}
		collectMember(out, place, g.Name, m)
	}
	if len(g.Members) > maxMembers || others.told(place, g.Name) {
		rest.count(others.take(out.now, place, g.Name, parts))
		rest.collect(out, place, g.Name, otherMembers)
	}
	collectPool(out, place, "upstream", g.Name, pool)
}

func collectMember(out *scrape, place, group string, m *upstream.MemberReport) {
	send(out, healthy, oneIf(m.InRotation()), place, group, m.Name)
	send(out, state, 1, place, group, m.Name, m.State())
	send(out, weightRatio, m.Factor, place, group, m.Name)
	if m.Latency > 0 {
		send(out, latency, m.Latency.Seconds(), place, group, m.Name)
	}
	c := countedOf(m)
	c.collect(out, place, group, m.Name)
}

func countedOf(m *upstream.MemberReport) (c counted) {
	c.add(m)
	return c
}

// tally is what only grows of it.
func (c counted) tally() (t tally) {
	i := 0
	for _, counts := range c.counters() {
		i += copy(t[i:], counts)
	}
	return t
}

// count sets it.
func (c *counted) count(t tally) {
	i := 0
	for _, counts := range c.counters() {
		i += copy(counts, t[i:])
	}
}

func (c *counted) counters() [4][]uint64 {
	return [...][]uint64{c.Results[:], c.Checks[:], c.Transitions[:], c.spares[:]}
}

// counted is what can be summed up over upstreams.
type counted struct {
	upstream.Counts
	exchanges, tunnels int64
	spares             [health.SpareCauses]uint64
}

func (c *counted) add(m *upstream.MemberReport) {
	c.exchanges += m.Exchanges
	c.tunnels += m.Tunnels
	for i, n := range m.Counts.Results {
		c.Results[i] += n
	}
	for i, n := range m.Counts.Checks {
		c.Checks[i] += n
	}
	for i, n := range m.Counts.Transitions {
		c.Transitions[i] += n
	}
	for i, n := range m.Spares {
		c.spares[i] += n
	}
}

func (c *counted) collect(out *scrape, place, group, name string) {
	send(out, inFlightOf, float64(c.exchanges), place, group, name, "exchange")
	send(out, inFlightOf, float64(c.tunnels), place, group, name, "tunnel")
	for k, n := range c.Results {
		send(out, upstreamRequests, float64(n), place, group, name, health.Kind(k).String())
	}
	for o, n := range c.Checks {
		if n > 0 {
			send(out, upstreamChecks, float64(n), place, group, name, health.CheckOutcome(o).String())
		}
	}
	for i, n := range c.Transitions {
		send(out, upstreamTransitions, float64(n), place, group, name, string(health.Events[i]))
	}
	for i, n := range c.spares {
		if n > 0 {
			send(out, withheld, float64(n), place, group, name, health.SpareCause(i).String())
		}
	}
}
