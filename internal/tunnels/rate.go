package tunnels

import (
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// userRate is what the tunnels of a user share. It outlives the last of them until
// it would be no other than a new one, or else a tunnel after the other would each
// begin with a burst.
type userRate struct {
	user     string
	up, down *relay.Rate
	perSec   int64       // guarded by the book's mu
	tunnels  int         // guarded by the book's mu
	forget   *time.Timer // guarded by the book's mu; nil until the last tunnel has left
}

// shareRate returns the rate of a user for one more tunnel.
func (b *Book) shareRate(user string, perSec int64) *userRate {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.rates[user]
	switch {
	case r == nil:
		if b.rates == nil {
			b.rates = make(map[string]*userRate)
		}
		r = &userRate{user: user, perSec: perSec, up: relay.NewRate(perSec), down: relay.NewRate(perSec)}
		b.rates[user] = r
	case r.perSec != perSec: // the configuration has changed
		r.perSec = perSec
		r.up.Set(perSec)
		r.down.Set(perSec)
	}
	r.tunnels++
	return r
}

// leaveRate takes a tunnel off the rate of its user, which is forgotten some time
// after the last.
func (b *Book) leaveRate(r *userRate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.tunnels--
	b.forgetRate(r)
}

// forgetRate forgets a rate that has no tunnels, as soon as its buckets are full
// again. Needs b.mu.
func (b *Book) forgetRate(r *userRate) {
	if r.tunnels > 0 || b.rates[r.user] != r {
		return
	}
	switch wait := max(r.up.Recovery(), r.down.Recovery()); {
	case wait == 0:
		delete(b.rates, r.user)
	case r.forget == nil:
		r.forget = time.AfterFunc(wait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.forgetRate(r)
		})
	default:
		r.forget.Reset(wait)
	}
}
