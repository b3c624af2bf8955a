package egress

import (
	"cmp"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/holdings"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/shared"
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

// acquireBook takes a hold on the book with the key, which is made if nobody has it. The
// logger is asked for when there is something to tell, which may be when the
// configuration is gone: the function must hold nothing of it.
func acquireBook(key string, logger func() *zap.Logger) (*tunnelUse, error) {
	book, err := useTunnelBook(key, logger)
	if err != nil {
		return nil, err
	}
	use := &tunnelUse{Use: book}
	use.giveBack = use.release
	use.parts.Store(1)
	return use, nil
}

func useTunnelBook(key string, logger func() *zap.Logger) (*shared.Use[*tunnelBook], error) {
	return tunnelBooks.Use(key, func() (*tunnelBook, error) { return newTunnelBook(logger), nil })
}

func newTunnelBook(logger func() *zap.Logger) *tunnelBook {
	return &tunnelBook{
		clients: holdings.New[string](0),
		users:   holdings.New[string](0),
		live:    liveTunnels{logger: logger},
	}
}

// bookReport is what a book holds at a moment.
type bookReport struct {
	Tunnels        int       // open, or about to be
	Configurations int       // that have entered
	Deadline       time.Time // when the open ones will be ended; 0 while they may go on
}

// report tells what the book holds now.
func (b *tunnelBook) report() bookReport {
	r := bookReport{Tunnels: int(b.total.Load())}
	b.live.mu.Lock()
	defer b.live.mu.Unlock()
	r.Configurations = len(b.live.policies)
	if b.live.drain != nil {
		r.Deadline = b.live.drain.at
	}
	return r
}

// ofClient is how many tunnels a client has that are counted; see takeSlot.
func (b *tunnelBook) ofClient(client string) int { return b.clients.Count(client) }

// ofUser is how many tunnels a user has that are counted; see takeSlot.
func (b *tunnelBook) ofUser(user string) int { return b.users.Count(user) }

// take adds a part, and returns the book with the function that gives the part
// back. Where all were given back already, a request that outlived its
// configuration has come late: it gets a hold of its own.
func (u *tunnelUse) take() (*tunnelBook, func(), error) {
	for n := u.parts.Load(); n > 0; n = u.parts.Load() {
		if u.parts.CompareAndSwap(n, n+1) {
			return u.Value, u.giveBack, nil
		}
	}
	own, err := useTunnelBook(u.Key, u.Value.live.logger)
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
	use, err := acquireBook(key, drainLogger)
	if err != nil {
		leave()
		return err
	}
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
		h.tunnels.Value.live.leave(p, h.besides == activeConfig())
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

	// upstream is what the tunnel goes through; nil if it is direct.
	upstream interface{ EndTunnel() }
	live     *liveTunnel
}

// Refusals, for logs. None is charged to the destination.
var (
	errMaxTunnels   = errors.New("tunnel.max_tunnels is reached")
	errMaxPerClient = errors.New("the client has as many tunnels as it may (tunnel.max_per_client)")
	errMaxPerUser   = errors.New("the user has as many tunnels as they may (tunnel.max_per_user)")
)

// tunnelLimits bound the tunnels of a handler. 0 and below are no limit.
type tunnelLimits struct {
	Tunnels     int   // at a time
	PerClient   int   // at a time
	PerUser     int   // at a time
	RatePerUser int64 // bytes per second, in each direction by itself
}

// takeSlot counts a tunnel that is about to be opened, or refuses it. The client and the
// user are "" where nobody knows them, and are not looked at where they have no limit.
func (u *tunnelUse) takeSlot(client, user string, limits tunnelLimits) (slot tunnelSlot, err error) {
	defer func() {
		if err != nil {
			slot.release()
		}
	}()
	if slot.book, slot.giveBack, err = u.take(); err != nil {
		return slot, err
	}
	if limits.PerClient > 0 {
		if client != "" && !slot.book.clients.AcquireUpTo(client, limits.PerClient) {
			return slot, failure.Limit.Because(errMaxPerClient)
		}
		slot.client = client
	}
	if err := slot.takeUser(user, limits); err != nil {
		return slot, err
	}
	if slot.counted = slot.book.count(limits.Tunnels); !slot.counted {
		return slot, failure.Limit.Because(errMaxTunnels)
	}
	return slot, nil
}

// takeUser counts the tunnel against the limits of its user, if it has one.
func (s *tunnelSlot) takeUser(user string, limits tunnelLimits) error {
	if user == "" {
		return nil
	}
	if limits.PerUser > 0 {
		if !s.book.users.AcquireUpTo(user, limits.PerUser) {
			return failure.Limit.Because(errMaxPerUser)
		}
		s.user = user
	}
	if limits.RatePerUser > 0 {
		s.rate = s.book.shareRate(user, limits.RatePerUser)
	}
	return nil
}

// refuses is takeSlot for somebody who takes none.
func (b *tunnelBook) refuses(client, user string, limits tunnelLimits) error {
	switch {
	case limits.PerClient > 0 && client != "" && b.clients.Count(client) >= limits.PerClient:
		return failure.Limit.Because(errMaxPerClient)
	case limits.PerUser > 0 && user != "" && b.users.Count(user) >= limits.PerUser:
		return failure.Limit.Because(errMaxPerUser)
	case limits.Tunnels > 0 && b.total.Load() >= int64(limits.Tunnels):
		return failure.Limit.Because(errMaxTunnels)
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
