package relay

import "github.com/caddy-egress/egress/internal/layers"

// This file contains how a direction is seen to go on while none of its reads and
// writes returns: a destination that reads slowly takes bytes from a socket long before
// the socket asks for more.

// look is how far a direction had come when it was looked at.
type look struct {
	moved  int64
	unsent int // written, but not taken by the destination's peer yet
}

// goesOn reports whether the direction has come further since the last call with the
// same look, and notes how far.
func (p *pump) goesOn(last *look) bool {
	unsent, _ := layers.Unsent(p.dst)
	now := look{p.moved.Load(), unsent}
	before := *last
	*last = now
	return now.moved > before.moved || now.unsent < before.unsent
}

// UpGoesOn reports whether the origin has taken bytes of the client since the last call,
// or the client's bytes wait for their rate. Calls must not run at the same time.
func (r *Relay) UpGoesOn() bool { return r.up.goesOn(&r.up.shown) || r.up.pacing.Load() }
