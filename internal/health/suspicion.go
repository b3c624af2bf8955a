package health

import (
	"hash/maphash"
	"slices"
	"time"
)

const (
	suspicionWindow = 30 * time.Second
	suspects        = 5  // distinct destinations that make an upstream suspect
	witnesses       = 3  // of them answered on another path that convict it
	maxSoftFails    = 64 // destinations remembered per upstream
)

var destinationSeed = maphash.MakeSeed()

// Destination returns the number under which a destination (host:port) is
// remembered: a hash of this process, never 0.
func Destination(hostport string) uint64 {
	return max(maphash.String(destinationSeed, hostport), 1)
}

// suspicion remembers the destinations that failed through an upstream in a way
// that blames nobody, since its last success.
type suspicion struct {
	fails []softFail // the oldest first
	asked instant    // a check was asked for; zero: none is expected
}

type softFail struct {
	destination uint64
	at          instant
	elsewhere   bool // answered on another path since
}

// add records a soft failure.
func (s *suspicion) add(now instant, destination uint64) {
	if destination == 0 {
		return
	}
	s.expire(now)
	kept := softFail{destination: destination, at: now}
	if i := s.index(destination); i >= 0 {
		kept.elsewhere = s.fails[i].elsewhere
		s.fails = slices.Delete(s.fails, i, i+1)
	} else if len(s.fails) == maxSoftFails {
		s.fails = slices.Delete(s.fails, 0, 1)
	}
	s.fails = append(s.fails, kept)
}

// answeredElsewhere records that a destination was reached on another path.
func (s *suspicion) answeredElsewhere(now instant, destination uint64) {
	s.expire(now)
	if i := s.index(destination); i >= 0 {
		s.fails[i].elsewhere = true
	}
}

// suspect reports whether enough distinct destinations failed.
func (s *suspicion) suspect() bool { return len(s.fails) >= suspects }

// convicted reports whether it is suspect and enough of its destinations were
// reached on another path.
func (s *suspicion) convicted() bool {
	n := 0
	for _, f := range s.fails {
		if f.elsewhere {
			n++
		}
	}
	return s.suspect() && n >= witnesses
}

// ask reports whether to ask for a check now: once, and not again within the window.
func (s *suspicion) ask(now instant) bool {
	if !s.suspect() || (s.asked != 0 && now.sub(s.asked) < suspicionWindow) {
		return false
	}
	s.asked = now
	return true
}

func (s *suspicion) clear() { s.fails, s.asked = s.fails[:0], 0 }

func (s *suspicion) expire(now instant) {
	old := 0
	for old < len(s.fails) && now.sub(s.fails[old].at) > suspicionWindow {
		old++
	}
	s.fails = slices.Delete(s.fails, 0, old)
}

func (s *suspicion) index(destination uint64) int {
	return slices.IndexFunc(s.fails, func(f softFail) bool { return f.destination == destination })
}
