package health

import (
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	suspicionWindow = 30 * time.Second
	suspects        = 5  // distinct hosts that make an upstream suspect
	witnesses       = 3  // of them answered on another path that convict it
	maxSoftFails    = 64 // hosts remembered per upstream
)

var destinationSeed = maphash.MakeSeed()

// Destination returns the number under which a destination (host:port) is
// remembered: a hash of this process, never 0.
func Destination(hostport string) uint64 {
	host, port := hostport, uint64(0)
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 {
		host = hostport[:i]
		port, _ = strconv.ParseUint(hostport[i+1:], 10, 16)
	}
	return max(hostOf(maphash.String(destinationSeed, host)), 1) | port<<hostBits
}

// hostBits are the lower bits of the number of a destination, which are its host's.
const hostBits = 48

// hostOf returns the number of the host of a destination. What is counted are hosts: one
// has 65535 ports.
func hostOf(destination uint64) uint64 { return destination & (1<<hostBits - 1) }

// suspicion remembers the destinations that failed through an upstream in a way
// that blames nobody, since its last success.
type suspicion struct {
	fails []softFail // the oldest first
	asked instant    // a check was asked for; zero: none is expected
	known bool       // it is told that the upstream is suspect, which it is still
	told  instant    // when that was told last
}

// softFail is the last destination of a host that failed.
type softFail struct {
	destination uint64
	at          instant
	clients     [manyClients]Client // who asked for it, the last one first
	elsewhere   bool                // it, or another one of the host, answered on another path since
}

// add records a soft failure.
func (s *suspicion) add(now instant, destination uint64, client Client) {
	if destination == 0 {
		return
	}
	s.expire(now)
	kept := softFail{destination: destination, clients: [manyClients]Client{client}, at: now}
	if i := slices.IndexFunc(s.fails, func(f softFail) bool { return hostOf(f.destination) == hostOf(destination) }); i >= 0 {
		kept.elsewhere = s.fails[i].elsewhere
		n := 1
		for _, c := range s.fails[i].clients {
			if n < manyClients && c != client {
				kept.clients[n] = c
				n++
			}
		}
		s.fails = slices.Delete(s.fails, i, i+1)
	} else if len(s.fails) == maxSoftFails {
		s.fails = slices.Delete(s.fails, 0, 1)
	}
	s.fails = append(s.fails, kept)
}

// answeredElsewhere records that a destination was reached on another path.
func (s *suspicion) answeredElsewhere(now instant, destination uint64) {
	s.expire(now)
	for i := range s.fails {
		if s.fails[i].destination == destination {
			s.fails[i].elsewhere = true
		}
	}
}

// suspect reports whether enough distinct hosts failed.
func (s *suspicion) suspect() bool { return len(s.fails) >= suspects }

// convicted reports whether it is suspect and enough of its destinations were
// reached on another path; networks are those of the clients who asked for these, and by is
// one of them.
func (s *suspicion) convicted(now instant) (yes bool, networks []uint64, by Client) {
	n := 0
	for _, f := range s.fails {
		if !f.elsewhere {
			continue
		}
		n++
		by = f.clients[0]
		for i, c := range f.clients {
			if network := networkOf(seenAt(now, c)); (c != 0 || i == 0) && !slices.Contains(networks, network) {
				networks = append(networks, network)
			}
		}
	}
	return s.suspect() && n >= witnesses, networks, by
}

// ask reports whether to ask for a check now: once, and not again within the window.
func (s *suspicion) ask(now instant) bool {
	if !s.suspect() || (s.asked != 0 && now.sub(s.asked) < suspicionWindow) {
		return false
	}
	s.asked = now
	return true
}

// tell reports whether to tell that the upstream is suspect: where it was not before, and
// not again within the window, since clients decide how often that comes and goes.
func (s *suspicion) tell(now instant) bool {
	if s.known || s.told != 0 && now.sub(s.told) < suspicionWindow {
		return false
	}
	s.known, s.told = true, now
	return true
}

func (s *suspicion) clear() { s.fails, s.asked, s.known = s.fails[:0], 0, false }

func (s *suspicion) expire(now instant) {
	old := 0
	for old < len(s.fails) && now.sub(s.fails[old].at) > suspicionWindow {
		old++
	}
	s.fails = slices.Delete(s.fails, 0, old)
	s.known = s.known && len(s.fails) > 0
}
