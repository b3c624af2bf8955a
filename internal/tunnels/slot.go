package tunnels

import (
	"errors"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
)

// Slot is what one tunnel holds, until it is closed. The zero value holds
// nothing.
type Slot struct {
	// Upstream is what the tunnel goes through; nil if it is direct. It is set before
	// Follow, and told when the slot is released.
	Upstream Upstream

	book         *Book
	giveBack     func() // the tunnel's part in the book
	counted      bool
	client, user string // "" where none is counted
	rate         *userRate
	live         *live
}

// Upstream counts the tunnels that go through it. It must hold nothing of a configuration:
// tunnels outlive them.
type Upstream interface {
	EndTunnel() // one less
}

// Refusals, for logs. None is charged to the destination.
var (
	// ErrMax is that of Limits.Tunnels.
	ErrMax = errors.New("tunnel.max_tunnels is reached")

	// ErrMaxPerClient is that of Limits.PerClient.
	ErrMaxPerClient = errors.New("the client has as many tunnels as it may (tunnel.max_per_client)")

	// ErrMaxPerUser is that of Limits.PerUser.
	ErrMaxPerUser = errors.New("the user has as many tunnels as they may (tunnel.max_per_user)")
)

// Limits bound the tunnels of a handler. 0 and below are no limit.
type Limits struct {
	Tunnels     int   // of all, at a time
	PerClient   int   // at a time
	PerUser     int   // at a time
	RatePerUser int64 // bytes per second of all tunnels of a user, in each direction by itself
}

// Take counts a tunnel that is about to be opened, or refuses it with one of the refusals
// as a failure.Limit. The client and the user are "" where nobody knows them, and are not
// looked at where they have no limit.
func (u *Use) Take(client, user string, limits Limits) (slot Slot, err error) {
	defer func() {
		if err != nil {
			slot.Release()
		}
	}()
	if slot.book, slot.giveBack, err = u.take(); err != nil {
		return slot, err
	}
	if limits.PerClient > 0 {
		if client != "" && !slot.book.clients.AcquireUpTo(client, limits.PerClient) {
			return slot, failure.Limit.Because(ErrMaxPerClient)
		}
		slot.client = client
	}
	if err := slot.takeUser(user, limits); err != nil {
		return slot, err
	}
	if slot.counted = slot.book.count(limits.Tunnels); !slot.counted {
		return slot, failure.Limit.Because(ErrMax)
	}
	return slot, nil
}

// takeUser counts the tunnel against the limits of its user, if it has one.
func (s *Slot) takeUser(user string, limits Limits) error {
	if user == "" {
		return nil
	}
	if limits.PerUser > 0 {
		if !s.book.users.AcquireUpTo(user, limits.PerUser) {
			return failure.Limit.Because(ErrMaxPerUser)
		}
		s.user = user
	}
	if limits.RatePerUser > 0 {
		s.rate = s.book.shareRate(user, limits.RatePerUser)
	}
	return nil
}

// Refuses is Take for somebody who takes none.
func (b *Book) Refuses(client, user string, limits Limits) error {
	switch {
	case limits.PerClient > 0 && client != "" && b.clients.Count(client) >= limits.PerClient:
		return failure.Limit.Because(ErrMaxPerClient)
	case limits.PerUser > 0 && user != "" && b.users.Count(user) >= limits.PerUser:
		return failure.Limit.Because(ErrMaxPerUser)
	case limits.Tunnels > 0 && b.total.Load() >= int64(limits.Tunnels):
		return failure.Limit.Because(ErrMax)
	}
	return nil
}

// Release gives back all that the tunnel holds. A second call does nothing.
func (s *Slot) Release() { s.ReleaseAround(func() {}) }

// ReleaseAround gives back what limits count, then calls f, and then takes the
// tunnel off the list: when the list is empty, the process may exit.
func (s *Slot) ReleaseAround(f func()) {
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
	s.LeaveUpstream()
	f()
	if s.live != nil {
		s.book.Live.remove(s.live)
	}
	if s.giveBack != nil {
		s.giveBack()
	}
	*s = Slot{}
}

// LeaveUpstream tells the upstream, if there is one, that the tunnel does not go through it,
// or no more.
func (s *Slot) LeaveUpstream() {
	if s.Upstream != nil {
		s.Upstream.EndTunnel()
		s.Upstream = nil
	}
}

// Move hands what the tunnel holds to the result.
func (s *Slot) Move() Slot {
	moved := *s
	*s = Slot{}
	return moved
}

// Rates are the limits that a tunnel keeps to, up and down: its own, in bytes per second,
// if it is over 0, and that of its user.
func (s *Slot) Rates(perTunnel int64) (up, down []*relay.Rate) {
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
