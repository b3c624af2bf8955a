package egress

import (
	"cmp"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/holdings"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what the tunnels of a handler hold together: how many
// there are, of whom, and the rates that users share.

// tunnelBook counts and lists the tunnels of one handler. It lives in a caddy.UsagePool,
// under the handler's identity, and outlives configurations:
// tunnels of an old one still count in the next.
type tunnelBook struct {
	total   atomic.Int64
	clients *holdings.Counter[string]
	users   *holdings.Counter[string]
	live    liveTunnels

	mu    sync.Mutex
	rates map[string]*userRate // guarded by mu; only of users with tunnels, or who had some just now
}

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

// Destruct does nothing: what the book counts is gone.
func (*tunnelBook) Destruct() error { return nil }

var tunnelBooks = shared.NewPool[*tunnelBook]()

// tunnelUse is one configuration's hold on a book. The handler and each of its
// tunnels have a part in it, so the book is released by whoever goes last. Tunnels keep
// it for as long as they live, so it holds nothing else of the configuration.
type tunnelUse struct {
	*shared.Use[*tunnelBook]
	parts atomic.Int64

	giveBack func() // release, as a value made once
}

func useTunnelBook(key string) (*shared.Use[*tunnelBook], error) {
	return tunnelBooks.Use(key, func() (*tunnelBook, error) {
		return &tunnelBook{clients: holdings.New[string](0), users: holdings.New[string](0)}, nil
	})
}

// take adds a part, and returns the book with the function that gives the part
// back. Where all were given back already, a request that outlived its
// configuration has come late: it gets a hold of its own.
func (u *tunnelUse) take() (*tunnelBook, func(), error) {
	for n := u.parts.Load(); n > 0; n = u.parts.Load() {
		if u.parts.CompareAndSwap(n, n+1) {
			return u.Value, u.giveBack, nil
		}
	}
	own, err := useTunnelBook(u.Key)
	if err != nil {
		return nil, nil, err
	}
	return own.Value, func() { _ = own.Release() }, nil
}

func (u *tunnelUse) release() {
	if u.parts.Add(-1) == 0 {
		_ = u.Release()
	}
}

// acquireTunnels loads the handler's book.
func (h *Handler) acquireTunnels(ctx caddy.Context) error {
	key, leave, err := h.identity(ctx)
	if err != nil {
		return err
	}
	book, err := useTunnelBook(key)
	if err != nil {
		leave()
		return err
	}
	use := &tunnelUse{Use: book}
	use.giveBack = use.release
	use.parts.Store(1)
	h.tunnels, h.leaveIdentity = use, leave
	return nil
}

// releaseTunnels gives the handler's own part back, if it has one. Requests may
// still be under way, so the handler keeps what it knows.
func (h *Handler) releaseTunnels() {
	if h.tunnels == nil {
		return
	}
	h.leaveIdentity()
	if p := h.tunnelPolicy; p != nil {
		p.failed = p.besides == activeConfig()
		h.tunnels.Value.live.leave(p)
	}
	h.tunnels.release()
}

// tunnelSlot is what one tunnel holds, until it is closed. The zero value holds
// nothing.
type tunnelSlot struct {
	book         *tunnelBook
	giveBack     func() // the tunnel's part in the book
	counted      bool
	client, user string // "" where none is counted
	rate         *userRate
	upstream     *upstream.Health // of the upstream it goes through, if any
	live         *liveTunnel
}

// Refusals, for logs. None is charged to the destination.
var (
	errMaxTunnels   = errors.New("tunnel.max_tunnels is reached")
	errMaxPerClient = errors.New("the client has as many tunnels as it may (tunnel.max_per_client)")
	errMaxPerUser   = errors.New("the user has as many tunnels as they may (tunnel.max_per_user)")
)

// takeSlot counts a tunnel that is about to be opened, or refuses it.
func (t *transaction) takeSlot() (slot tunnelSlot, err error) {
	defer func() {
		if err != nil {
			slot.release()
		}
	}()
	if slot.book, slot.giveBack, err = t.h.tunnels.take(); err != nil {
		return slot, err
	}
	cfg := &t.h.tunnel
	if cfg.MaxPerClient > 0 {
		client := clientIP(t.r)
		if client != "" && !slot.book.clients.AcquireUpTo(client, cfg.MaxPerClient) {
			return slot, failure.Limit.Because(errMaxPerClient)
		}
		slot.client = client
	}
	if cfg.MaxPerUser > 0 || cfg.RatePerUser > 0 {
		if err := slot.takeUser(t.authenticatedUser(), cfg); err != nil {
			return slot, err
		}
	}
	if slot.counted = slot.book.count(cfg.MaxTunnels); !slot.counted {
		return slot, failure.Limit.Because(errMaxTunnels)
	}
	return slot, nil
}

// takeUser counts the tunnel against the limits of its user, if it has one.
func (s *tunnelSlot) takeUser(user string, cfg *Tunnel) error {
	if user == "" {
		return nil
	}
	if cfg.MaxPerUser > 0 {
		if !s.book.users.AcquireUpTo(user, cfg.MaxPerUser) {
			return failure.Limit.Because(errMaxPerUser)
		}
		s.user = user
	}
	if cfg.RatePerUser > 0 {
		s.rate = s.book.shareRate(user, cfg.RatePerUser)
	}
	return nil
}

// count adds a tunnel, up to a limit if there is one.
func (b *tunnelBook) count(most int) bool {
	for {
		n := b.total.Load()
		if most > 0 && n >= int64(most) {
			return false
		}
		if b.total.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// authenticatedUser is the user whom we, or a handler before us, know the client
// as; "" if nobody does.
func (t *transaction) authenticatedUser() string {
	repl, ok := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString(userPlaceholder)
	return user
}

// slotOf says which of some sources the request leaves from, where they are kept apart:
// its user's, or that of its client address where there is no user.
func (t *transaction) slotOf(s *dial.Sources) uint32 {
	if !s.KeptApart() {
		return 0
	}
	return s.Slot(cmp.Or(t.authenticatedUser(), clientIP(t.r)))
}

// release gives back all that the tunnel holds. A second call does nothing.
func (s *tunnelSlot) release() { s.releaseAround(func() {}) }

// releaseAround gives back what limits count, then calls f, and then takes the
// tunnel off the list: when the list is empty, the process may exit.
func (s *tunnelSlot) releaseAround(f func()) {
	if s.client != "" {
		s.book.clients.Release(s.client)
	}
	if s.user != "" {
		s.book.users.Release(s.user)
	}
	if s.rate != nil {
		s.book.leaveRate(s.rate)
	}
	if s.counted {
		s.book.total.Add(-1)
	}
	if s.upstream != nil {
		s.upstream.EndTunnel()
	}
	f()
	if s.live != nil {
		s.book.live.remove(s.live)
	}
	if s.giveBack != nil {
		s.giveBack()
	}
	*s = tunnelSlot{}
}

// move hands what the tunnel holds to the result.
func (s *tunnelSlot) move() tunnelSlot {
	moved := *s
	*s = tunnelSlot{}
	return moved
}

// shareRate returns the rate of a user for one more tunnel.
func (b *tunnelBook) shareRate(user string, perSec int64) *userRate {
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
func (b *tunnelBook) leaveRate(r *userRate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.tunnels--
	b.forgetRate(r)
}

// forgetRate forgets a rate that has no tunnels, as soon as its buckets are full
// again. Needs b.mu.
func (b *tunnelBook) forgetRate(r *userRate) {
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

// rates are the limits that a tunnel keeps to, up and down.
func (s *tunnelSlot) rates(perTunnel int64) (up, down []*relay.Rate) {
	if perTunnel > 0 {
		up = append(up, relay.NewRate(perTunnel))
		down = append(down, relay.NewRate(perTunnel))
	}
	if s.rate != nil {
		up = append(up, s.rate.up)
		down = append(down, s.rate.down)
	}
	return up, down
}
