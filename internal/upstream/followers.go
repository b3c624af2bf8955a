package upstream

import (
	"slices"
	"sync"

	"github.com/caddy-egress/egress/internal/orders"
)

// This file contains whom the health of an upstream tells that it comes or goes: its members
// in all groups, whose connections may be different ones.

// followers are members of groups that run.
type followers struct {
	mu  sync.Mutex
	all []*Member // guarded by mu
}

// follow lets connections of a member be dialed ahead, if any are wanted and the upstream is
// in rotation.
func (h *Health) follow(m *Member) {
	h.followers.mu.Lock()
	defer h.followers.mu.Unlock()
	h.followers.all = append(h.followers.all, m)
	m.Conns.Dialer.SetUp(h.Available())
}

func (h *Health) unfollow(m *Member) {
	h.followers.mu.Lock()
	defer h.followers.mu.Unlock()
	if i := slices.Index(h.followers.all, m); i >= 0 {
		h.followers.all = slices.Delete(h.followers.all, i, i+1)
	}
}

// cameOrWent tells all members whether the upstream is in rotation now.
func (h *Health) cameOrWent() {
	h.followers.mu.Lock()
	defer h.followers.mu.Unlock()
	for _, m := range h.followers.all {
		m.Conns.Dialer.SetUp(h.Available())
	}
}

// Obey implements orders.Attached: the upstream is as the operator orders. What is under way
// through it goes on.
func (h *Health) Obey(o orders.Order) {
	h.SetShare(o.Weight)
	if t := h.SetAdmin(o.Admin); t.Upstream != nil {
		h.cameOrWent()
	}
}
