package metrics

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-egress/egress/internal/core"
)

// This file contains which groups a handler has, and which users it tells apart, so that what
// was counted of one that no configuration has any more, with its last request and tunnel, is
// forgotten: names may change at each reload.

// enter tells of the groups and users of a configuration that counts here.
func (r *Recorder) enter(groups, users []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range groups {
		r.groups[g]++
	}
	for _, u := range users {
		r.users[u]++
	}
}

// leave tells that a configuration, and all that it has begun, is gone.
func (r *Recorder) leave(groups, users []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range groups {
		if r.groups[g]--; r.groups[g] == 0 {
			delete(r.groups, g)
			r.forget(g)
		}
	}
	for _, u := range users {
		if r.users[u]--; r.users[u] == 0 {
			delete(r.users, u)
			r.forgetUser(u)
		}
	}
}

// forget drops what was counted of a group. r.mu is held.
func (r *Recorder) forget(group string) {
	ways := maps.Clone(*r.ways.Load())
	maps.DeleteFunc(ways, func(w way, _ *series) bool { return w.group == group })
	r.ways.Store(&ways)
	for i := range r.last {
		if s := r.last[i].Load(); s != nil && s.group == group {
			r.last[i].CompareAndSwap(s, nil)
		}
	}
	for _, f := range families {
		f.DeletePartialMatch(prometheus.Labels{"handler": r.handler, "group": group})
	}
	limited.DeleteLabelValues(r.handler, core.LimitOfGroup(group))
	others.forget(r.handler, group)
}
