package egress

import (
	"fmt"
	"strings"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what is told of the limits that a request counts towards, and of
// where its connections leave from.

// explainedLimit is a limit, with what counts towards it now.
type explainedLimit struct {
	Name  string `json:"name"`  // the setting
	Limit int    `json:"limit"` // of max_pending and its like, 0 if nobody waits

	// InUse is what counts towards it. Missing where the configuration is not
	// running.
	InUse *int `json:"in_use,omitempty"`

	// Idle are the connections among those in use that wait for a request.
	Idle int `json:"idle,omitempty"`
}

// explainedLimits are made by add.
type explainedLimits []explainedLimit

// add tells of a limit, unless it is off. inUse is negative where it is not known.
func (l *explainedLimits) add(name string, limit, inUse, idle int) {
	if limit <= 0 {
		return
	}
	l.addCapped(name, limit, inUse, idle)
}

// addCapped is add for a limit that is never off, and 0 where the setting is.
func (l *explainedLimits) addCapped(name string, limit, inUse, idle int) {
	out := explainedLimit{Name: name, Limit: max(limit, 0), Idle: idle}
	if inUse >= 0 {
		out.InUse = &inUse
	}
	*l = append(*l, out)
}

func (l explainedLimits) String() string {
	texts := make([]string, len(l))
	for i, limit := range l {
		texts[i] = fmt.Sprintf("%s %d", limit.Name, limit.Limit)
		if limit.InUse != nil {
			texts[i] = fmt.Sprintf("%s %d/%d", limit.Name, *limit.InUse, limit.Limit)
		}
		if limit.Idle > 0 {
			texts[i] += fmt.Sprintf(" (%d idle)", limit.Idle)
		}
	}
	return strings.Join(texts, ", ")
}

// limits are those that hold on every path of the request: how many tunnels or
// exchanges there may be, of whom.
func (t *transaction) limits() (out explainedLimits) {
	client, user := clientIP(t.HTTP), t.Client.User()
	count := func(of func() int) int {
		if t.h.dry {
			return -1
		}
		return of()
	}
	if t.Use == upstream.Tunnel {
		cfg, book := &t.h.tunnel, t.Proxy.Tunnels.Value
		out.add("max_tunnels", cfg.MaxTunnels, count(func() int { return book.Report().Tunnels }), 0)
		out.add("max_per_client", cfg.MaxPerClient, count(func() int { return book.OfClient(client) }), 0)
		if user != "" {
			out.add("max_per_user", cfg.MaxPerUser, count(func() int { return book.OfUser(user) }), 0)
		}
		return out
	}
	p, cfg := t.Proxy.Pool, &t.h.transport
	ofClient, ofUser := p.Held(client, user)
	clients, users := p.Counts()
	if clients {
		out.add("max_per_client", cfg.MaxPerClient, count(func() int { return ofClient }), 0)
	}
	if users && user != "" {
		out.add("max_per_user", cfg.MaxPerUser, count(func() int { return ofUser }), 0)
	}
	return out
}

// originLimits are those of direct exchanges with the destination.
func (t *transaction) originLimits() (out explainedLimits) {
	if t.Use != upstream.Exchange {
		return nil
	}
	t.Slot = t.SlotOf(t.Route.Direct.Sources)
	cfg, host, all := &t.h.transport, t.Proxy.Pool.StatsOf(t.PoolKey()), t.Proxy.Pool.Stats()
	if t.h.dry {
		host, all = unknownStats, unknownStats
	}
	out.add("max_conns_per_host", cfg.MaxConnsPerHost, host.Open, host.Idle)
	out.addCapped("max_pending_per_host", cfg.MaxPendingPerHost, host.Pending, 0)
	out.add("max_conns", cfg.MaxConns, all.Open, all.Idle)
	out.addCapped("max_pending", cfg.MaxPending, all.Pending, 0)
	return out
}

// unknownStats are those of a pool that does not run.
var unknownStats = connpool.Stats{Open: -1, Pending: -1}

// memberLimits are those of a member for requests of a use.
func memberLimits(m *upstream.Member, use upstream.Use, running bool) (out explainedLimits) {
	stats, tunnels := unknownStats, -1
	if running {
		stats, tunnels = m.Conns.Pool.Stats(), int(m.Health.Tunnels())
	}
	switch {
	case use == upstream.Tunnel:
		out.add("max_tunnels", m.Spec.MaxTunnels, tunnels, 0)
	case m.Spec.MaxConns > 0:
		out.add("max_conns", m.Spec.MaxConns, stats.Open, stats.Idle)
		out.addCapped("max_pending", m.Spec.MaxPending, stats.Pending, 0)
	}
	return out
}

// explainedSource is where connections leave from.
type explainedSource struct {
	// Addresses are the local addresses: that of the user for each family with
	// user_hash, otherwise those that are used by turn. Empty: the system's choice.
	Addresses []string `json:"addresses,omitempty"`
	// Pick is round_robin or user_hash. Empty: there are no Addresses.
	Pick string `json:"pick,omitempty"`
	// Interface is the name of the network interface. Empty: none is set.
	Interface string `json:"interface,omitempty"`
}

// explainSource tells of the sources of a request, nil where the system chooses. No
// turn is taken.
func (t *transaction) explainSource(s *dial.Sources) *explainedSource {
	if s == nil {
		return nil
	}
	out := &explainedSource{Interface: s.Device}
	lists := s.Addrs
	if s.Sticky {
		out.Pick = dial.PickUserHash
		own := s.Pick(dial.WithSlot(t.HTTP.Context(), t.SlotOf(s)))
		for f := range lists {
			if own.Addrs[f].IsValid() {
				lists[f] = own.Addrs[f : f+1]
			}
		}
	} else if len(lists[dnscache.IPv4])+len(lists[dnscache.IPv6]) > 0 {
		out.Pick = dial.PickRoundRobin
	}
	for _, list := range lists {
		for _, a := range list {
			out.Addresses = append(out.Addresses, a.String())
		}
	}
	return out
}

func (s *explainedSource) String() string {
	var words []string
	if len(s.Addresses) > 0 {
		words = append(words, strings.Join(s.Addresses, ", "))
	}
	switch {
	case s.Pick == dial.PickUserHash:
		words[0] += " (of this user)"
	case len(s.Addresses) > 1:
		words[0] += " (by turn)"
	}
	if s.Interface != "" {
		words = append(words, "interface "+s.Interface)
	}
	return strings.Join(words, ", ")
}
