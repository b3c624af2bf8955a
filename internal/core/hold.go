package core

import (
	"cmp"

	"github.com/caddy-egress/egress/internal/dial"
)

// Hold counts the request against the limits of its client and its user, once
// however often it is called. LetGo ends it.
func (t *Request) Hold() (err error) {
	clients, users := t.Proxy.Pool.Counts()
	if t.Held.Taken() || !clients && !users {
		return nil
	}
	var client, user string
	if clients {
		client = t.Client.IP()
	}
	if users {
		user = t.Client.User()
	}
	t.Held, err = t.Proxy.Pool.Hold(client, user)
	return err
}

// SlotOf says which of some sources the request leaves from, where they are kept apart:
// its user's, or that of its client address where there is no user.
func (t *Request) SlotOf(s *dial.Sources) uint32 {
	if !s.KeptApart() {
		return 0
	}
	return s.Slot(cmp.Or(t.Client.User(), t.Client.IP()))
}
