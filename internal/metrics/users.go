package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/upstream"
)

// MaxUsers is how many users of a handler may have series of their own.
const MaxUsers = 500

// OtherUsers is the label of those that have none.
const OtherUsers = "_other"

// users are the series of the users of a configuration that it wants to be told apart. Each is
// made with it; what a user has counted stays over reloads as long as one of them names it.
type users struct {
	named map[string]*userSeries
	other *userSeries
}

// userSeries are the metrics of one user.
type userSeries struct {
	requests [2][2]prometheus.Counter // by kind, and whether it failed
	up, down prometheus.Counter
}

// newUsers makes the series of the users; nil where none are named.
func newUsers(handler string, names []string) *users {
	if len(names) == 0 {
		return nil
	}
	u := &users{named: make(map[string]*userSeries, len(names)), other: newUserSeries(handler, OtherUsers)}
	for _, name := range names {
		u.named[name] = newUserSeries(handler, name)
	}
	return u
}

func newUserSeries(handler, user string) *userSeries {
	s := &userSeries{
		up:   userBytes.WithLabelValues(handler, user, "up"),
		down: userBytes.WithLabelValues(handler, user, "down"),
	}
	for _, use := range []upstream.Use{upstream.Exchange, upstream.Tunnel} {
		for i, outcome := range outcomes {
			s.requests[kindIndex(use)][i] = userRequests.WithLabelValues(handler, user, kindOf(use), outcome)
		}
	}
	return s
}

// of finds the series of the user of a request; nil where nobody has logged in, or no user is
// told apart.
func (u *users) of(t *core.Request) *userSeries {
	if u == nil || t.User == "" {
		return nil
	}
	if s := u.named[t.User]; s != nil {
		return s
	}
	return u.other
}

// ended counts a request that is over, or whose tunnel stands.
func (s *userSeries) ended(t *core.Request) {
	if s == nil {
		return
	}
	failed := 0
	if t.Outcome.Failure != nil {
		failed = 1
	}
	s.requests[kindIndex(t.Use)][failed].Inc()
	if t.Use != upstream.Tunnel {
		s.moved(t.Outcome.BytesUp, t.Outcome.BytesDown)
	}
}

func (s *userSeries) moved(up, down int64) {
	if s != nil {
		s.up.Add(float64(up))
		s.down.Add(float64(down))
	}
}

// forgetUser drops what was counted of a user.
func (r *Recorder) forgetUser(user string) {
	userRequests.DeletePartialMatch(prometheus.Labels{"handler": r.handler, "user": user})
	userBytes.DeletePartialMatch(prometheus.Labels{"handler": r.handler, "user": user})
}
