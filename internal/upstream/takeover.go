package upstream

import "github.com/caddy-egress/egress/internal/connpool"

// This file contains what a group reports of the one that it has followed.

// Connections are pooled ones.
type Connections struct{ Idle, Active int }

// Add counts those of a pool.
func (c *Connections) Add(s connpool.Stats) {
	c.Idle += s.Idle
	c.Active += s.Open - s.Idle
}

// Takeover is what groups have taken over, in a reload, from those that stood at their
// places before.
type Takeover struct {
	Kept, Changed, Added, Removed int // members; a changed one keeps its health, but not its connections

	Connections Connections // of members that are as they were
	Left        Connections // of the others, that close when they are idle
}

// Add counts a group that runs now, and the one that stood at its place before; either
// may be nil.
func (t *Takeover) Add(now, before *Group) {
	current, old := now.Current(), before.Current()
	for id, m := range current {
		switch was := old[id]; {
		case was == nil:
			t.Added++
		case was.Conns == m.Conns:
			t.Kept++
			t.Connections.Add(m.Conns.Pool.Stats())
		default:
			t.Changed++
			t.Left.Add(was.Conns.Pool.Stats())
		}
	}
	for id, was := range old {
		if current[id] == nil {
			t.Removed++
			t.Left.Add(was.Conns.Pool.Stats())
		}
	}
}
