package dial

import (
	"errors"
	"net"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
)

// Recorder is told what a dialer does for its handler. It must not block, may be called
// from any goroutine, and outlives configurations.
type Recorder interface {
	// LookedUp tells of a look-up of the addresses of one family.
	LookedUp(result Lookup)
	// Resolved tells of one that had to be asked for: how long that was waited for, and how
	// it ended.
	Resolved(took time.Duration, result Lookup)
	// Handshaken tells of a TLS handshake, which has failed with err, if with any.
	Handshaken(took time.Duration, err error)
}

// Lookup is how a look-up has ended.
type Lookup uint8

// The results of look-ups.
const (
	Hit      Lookup = iota // the addresses are known
	Miss                   // they must be asked for
	Stale                  // their time is over, and they could not be asked for anew
	Negative               // there are none
	Failed                 // nobody has answered
	Refused                // those who have answered cannot tell
	Lookups                // how many results there are
)

// String is the word for it.
func (l Lookup) String() string {
	return [Lookups]string{"hit", "miss", "stale", "negative", "failed", "refused"}[l]
}

// lookupOf is what an answer is.
func lookupOf(a *dnscache.Answer) Lookup {
	switch {
	case a.Stale:
		return Stale
	case len(a.Addrs) > 0:
		return Hit
	}
	if e, ok := errors.AsType[*net.DNSError](a.Err); ok && e.IsNotFound {
		return Negative
	}
	if dnscache.Answered(a.Err) {
		return Refused
	}
	return Failed
}
