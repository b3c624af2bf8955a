package admin

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Overview is what the status page shows: the views of the API, of each the part that people
// can read.
type Overview struct {
	Time         time.Time
	Version      string
	Emergency    EmergencyState
	Troubles     Troubles
	Groups       list[Group]
	Upstreams    list[Upstream]
	Destinations list[Destination]
	Rules        list[Rule]
	Reload       list[Reload]
	Users        list[User]   // by rate, then by bytes
	ByRate       list[Tunnel] // those that carry most
	ByBytes      list[Tunnel] // those that have carried most
}

// Troubles are what an overview tells of all groups, upstreams and rules, listed or not.
type Troubles struct {
	Gone  []string // names of the groups of which no upstream can be used
	Out   int      // upstreams out of rotation, but for those that the operator has taken out
	Never int      // access rules that have decided about no request
}

// Bounds are how many items the lists of an overview have at most.
type Bounds struct{ Upstreams, Rules, Others int }

// Look takes an overview of all handlers.
func Look(most Bounds) (*Overview, error) {
	c := new(call)
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	books, err := c.books()
	if err != nil {
		return nil, err
	}
	now, reported, tally := time.Now(), reports(handlers), newUserTally(handlers)
	byRate := tunnelRanking{by: "rate", limit: most.Others, now: now}
	byBytes := tunnelRanking{by: "bytes", limit: most.Others, now: now}
	each(books, func(e tunnels.Entry, c carried) {
		tally.add(e, c)
		byRate.add(e, c)
		byBytes.add(e, c)
	})
	users := tally.list(maxLimit)
	slices.SortStableFunc(users.Items, func(a, b User) int {
		return cmp.Or(cmp.Compare(b.RateUp+b.RateDown, a.RateUp+a.RateDown), cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown))
	})
	users.Items = users.Items[:min(len(users.Items), most.Others)]
	return &Overview{
		Time: now, Version: Version(), Emergency: emergencyState(),
		Troubles: troublesOf(reported),
		Groups:   worstGroups(reported, most.Upstreams), Upstreams: worstUpstreams(reported, most.Upstreams),
		Destinations: destinationsOf(reported, "", most.Others), Rules: rulesOf(handlers, most.Rules),
		Reload: reloadsOf(handlers, most.Others), Users: users,
		ByRate: byRate.list(), ByBytes: byBytes.list(),
	}, nil
}

// worstUpstreams are all upstreams if there are no more than the limit; else those that are out
// of rotation come first.
func worstUpstreams(handlers []reported, limit int) list[Upstream] {
	return worstFirst(limit, (*upstream.MemberReport).InRotation, func(wanted func(*upstream.MemberReport) bool, limit int) list[Upstream] {
		return upstreamsOf(handlers, "", wanted, limit)
	})
}

// worstGroups are the same for groups: those of which nothing can be used come first.
func worstGroups(handlers []reported, limit int) list[Group] {
	return worstFirst(limit, func(g *upstream.Report) bool { return g.Available > 0 }, func(wanted func(*upstream.Report) bool, limit int) list[Group] {
		return groupsOf(handlers, wanted, limit)
	})
}

func worstFirst[T, R any](limit int, well func(*R) bool, take func(wanted func(*R) bool, limit int) list[T]) list[T] {
	all := take(anyOf, limit)
	if all.Total <= limit {
		return all
	}
	worst := take(func(r *R) bool { return !well(r) }, limit)
	worst.Items = append(worst.Items, take(well, limit-len(worst.Items)).Items...)
	worst.Total = all.Total
	return worst
}

func troublesOf(handlers []reported) (t Troubles) {
	out := make(map[string][]*upstream.MemberReport) // by ID: handlers may share one
	for _, h := range handlers {
		for g := range h.Groups {
			g := &h.Groups[g]
			if g.Available == 0 && !slices.Contains(t.Gone, g.Name) {
				t.Gone = append(t.Gone, g.Name)
			}
			for i := range g.Members {
				m := &g.Members[i]
				if m.InRotation() || m.Admin != health.Ready || slices.ContainsFunc(out[m.ID], m.Same) {
					continue
				}
				out[m.ID] = append(out[m.ID], m)
				t.Out++
			}
		}
		rules := h.Rules()
		for _, list := range [][]acl.RuleReport{rules.Rules, rules.Defaults} {
			for i := range list {
				if list[i].Hits == 0 {
					t.Never++
				}
			}
		}
	}
	return t
}

// Attempts are the attempts through an upstream since it is known.
type Attempts struct {
	ID, URL     string
	Known       time.Time // since when
	All, Failed uint64
}

// AttemptsOf counts the attempts of all upstreams, in the order of handlers, groups and
// members.
func AttemptsOf() (all []Attempts) {
	found, places := Handlers.ByPlace()
	known := make(map[string]bool) // handlers may share one
	for _, place := range places {
		r := found[place].Report()
		for g := range r.Groups {
			for m := range r.Groups[g].Members {
				if member := &r.Groups[g].Members[m]; !known[member.ID] {
					known[member.ID] = true
					all = append(all, attemptsOf(member))
				}
			}
		}
	}
	return all
}
