package admin

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/caddy-egress/egress/internal/tunnels"
)

// User is a user at a moment.
type User struct {
	Handler    string  `json:"handler" doc:"The place of the handler."`
	Name       string  `json:"name" doc:"The name of the user."`
	Configured bool    `json:"configured" doc:"Whether the handler has the user in its configuration; others were authenticated elsewhere, or are gone and have tunnels."`
	Tunnels    int     `json:"tunnels" doc:"Tunnels that are open."`
	Exchanges  *int    `json:"exchanges,omitempty" doc:"Exchanges that are under way directly; absent where max_per_user does not have them counted."`
	BytesUp    int64   `json:"bytes_up" doc:"Bytes from the clients that these tunnels have delivered."`
	BytesDown  int64   `json:"bytes_down" doc:"Bytes to the clients that these tunnels have delivered."`
	RateUp     float64 `json:"bytes_up_per_second" doc:"Bytes a second from the clients over the last 10 seconds."`
	RateDown   float64 `json:"bytes_down_per_second" doc:"Bytes a second to the clients over the last 10 seconds."`
}

func viewUsers(c *call) (list[User], error) {
	handlers, err := c.handlers()
	if err != nil {
		return list[User]{}, err
	}
	books, err := c.books()
	if err != nil {
		return list[User]{}, err
	}
	users := newUserTally(handlers)
	each(books, users.add)
	return users.list(c.limit()), nil
}

// userTally sums up the tunnels of users: those of handlers, and others that have some.
type userTally map[userKey]*User

type userKey struct{ handler, name string }

func newUserTally(handlers []selected) userTally {
	t := make(userTally)
	for _, h := range handlers {
		for _, name := range h.Users() {
			u := t.of(h.place, name)
			u.Configured = true
			if n, counted := h.Exchanges(name); counted {
				u.Exchanges = &n
			}
		}
	}
	return t
}

func (t userTally) of(handler, name string) *User {
	u := t[userKey{handler, name}]
	if u == nil {
		u = &User{Handler: handler, Name: name}
		t[userKey{handler, name}] = u
	}
	return u
}

func (t userTally) add(e tunnels.Entry, c carried) {
	if e.User() == "" {
		return
	}
	u := t.of(e.Handler(), e.User())
	u.Tunnels++
	u.BytesUp, u.BytesDown = u.BytesUp+c.up, u.BytesDown+c.down
	u.RateUp, u.RateDown = u.RateUp+c.rateUp, u.RateDown+c.rateDown
}

// list are the users with most tunnels.
func (t userTally) list(limit int) list[User] {
	all := slices.SortedFunc(maps.Values(t), func(a, b *User) int {
		return cmp.Or(cmp.Compare(b.Tunnels, a.Tunnels), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Handler, b.Handler))
	})
	out := newList[User](limit)
	for _, u := range all {
		u.RateUp, u.RateDown = math.Round(u.RateUp), math.Round(u.RateDown)
		out.add(func() User { return *u })
	}
	return out
}
