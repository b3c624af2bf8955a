package health

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// This file contains what is remembered of clients, so that one of them alone neither keeps
// an upstream out for the others nor takes it out.

const (
	// leaveTo is for how long at most a client leaves the probe to others, since its last
	// one has told nothing.
	leaveTo = 5 * time.Second

	// briefly is a pause between two probes that nobody notices.
	briefly = 100 * time.Millisecond

	// besideAfter is how long a probe may take before that of another client may go beside
	// it.
	besideAfter = 2 * time.Second

	// servedLately is for how long one who was served shows that it is not the upstream
	// that fails for another.
	servedLately = 10 * time.Second

	// failedLately is for how long those for whom it has failed make others believed.
	failedLately = 3 * time.Second
)

// Client is the number under which a client is remembered: hashes of this process, in the
// lower half of who it is, in the upper half of its network where it has many addresses. 0
// is one that nobody knows.
type Client uint64

// ClientOf returns the number of a user, or, where there is none, of the client at an
// address; of neither, 0.
func ClientOf(user, address string) Client {
	if user != "" {
		return Client(clientHash(user))
	}
	if address == "" {
		return 0
	}
	self := Client(clientHash(address))
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() && !a.Is4In6() {
		network, _ := a.WithZone("").Prefix(clientNetwork) // of a valid length: no error
		self |= Client(clientHash(network.String())) << 32
	}
	return self
}

// clientNetwork is the length of the prefix that one client may have all addresses of: sites
// get a /48 or a /56 (RFC 6177). It may be a network of many clients, too.
const clientNetwork = 48

func clientHash(s string) uint32 { return max(uint32(maphash.String(destinationSeed, s)), 1) }

// self is who the client is, as far as we know.
func (c Client) self() uint32 { return uint32(c) }

// network is where the client is: what has the same network may be one client.
func (c Client) network() uint32 {
	if n := uint32(c >> 32); n != 0 {
		return n
	}
	return c.self()
}

// lastClients are a few clients, the latest first.
type lastClients [16]Client

func (l *lastClients) add(c Client) {
	if c == 0 {
		return
	}
	i := slices.Index(l[:], c)
	if i < 0 {
		i = len(l) - 1 // the oldest is forgotten
	}
	copy(l[1:], l[:i])
	l[0] = c
}

// has reports whether c is one of them, or may be: two addresses of its network are.
func (l *lastClients) has(c Client) bool {
	if c == 0 || slices.Contains(l[:], c) {
		return c != 0
	}
	near := 0
	for _, other := range l {
		if other != 0 && other.network() == c.network() {
			near++
		}
	}
	return near > 1
}

// hasNetwork reports whether a client of the network of c is one of them.
func (l *lastClients) hasNetwork(c Client) bool {
	return c != 0 && slices.ContainsFunc(l[:], func(other Client) bool { return other != 0 && other.network() == c.network() })
}

// seen remembers a few clients and when they were seen last. It has no lock: two callers at
// once may lose one. A slot is who it is and its network, in 24 bits each, and the second, of
// which 16 bits are enough.
type seen [8]atomic.Uint64

const secondBits, whoBits = 16, 24

func seenAt(now instant, c Client) uint64 {
	self, network := uint64(max(c.self()>>(32-whoBits), 1)), uint64(max(c.network()>>(32-whoBits), 1))
	return self<<(whoBits+secondBits) | network<<secondBits | uint64(now/instant(time.Second))&(1<<secondBits-1)
}

func selfOf(slot uint64) uint64    { return slot >> (whoBits + secondBits) }
func networkOf(slot uint64) uint64 { return slot >> secondBits & (1<<whoBits - 1) }

// ageOf is how old a slot is, in seconds; of an empty one, more than of any other.
func ageOf(now, slot uint64) uint64 {
	if slot == 0 {
		return 1 << secondBits
	}
	return (now - slot) & (1<<secondBits - 1)
}

// recent reports whether a slot is not older than some whole seconds.
func recent(now, slot uint64, within time.Duration) bool {
	return ageOf(now, slot) <= uint64(within/time.Second)
}

// perNetwork is how many slots a network may have, which may be one client.
const perNetwork = 2

// add records a client. Where all slots were written within this second, that is enough: few
// calls write, however many clients there are.
func (s *seen) add(now instant, c Client) {
	if c == 0 {
		return
	}
	next := seenAt(now, c)
	oldest, age, near, nearest, nearAge := 0, uint64(0), 0, 0, uint64(0)
	for i := range s {
		last := s[i].Load()
		if last == next {
			return
		}
		a := ageOf(next, last)
		switch {
		case selfOf(last) == selfOf(next):
			s[i].Store(next)
			return
		case last != 0 && networkOf(last) == networkOf(next):
			if near++; near == 1 || a > nearAge {
				nearest, nearAge = i, a
			}
		}
		if i == 0 || a > age {
			oldest, age = i, a
		}
	}
	if near >= perNetwork {
		oldest, age = nearest, nearAge
	}
	if age > 0 {
		s[oldest].Store(next)
	}
}

// another reports whether anybody but c was seen within some whole seconds.
func (s *seen) another(now instant, c Client, within time.Duration) bool {
	me := seenAt(now, c)
	for i := range s {
		if slot := s[i].Load(); recent(me, slot, within) && selfOf(slot) != selfOf(me) {
			return true
		}
	}
	return false
}

// outside is how many networks were seen that are none of these.
func (s *seen) outside(now instant, networks []uint64, within time.Duration) int {
	return len(slices.DeleteFunc(s.networks(now, within), func(n uint64) bool { return slices.Contains(networks, n) }))
}

// networks are those that were seen within some whole seconds.
func (s *seen) networks(now instant, within time.Duration) (all []uint64) {
	at := seenAt(now, 0)
	for i := range s {
		if slot := s[i].Load(); recent(at, slot, within) && !slices.Contains(all, networkOf(slot)) {
			all = append(all, networkOf(slot))
		}
	}
	return all
}

// manyClients is how many have to meet what an origin may have brought about, so that it is
// believed whoever is served meanwhile.
const manyClients = 3

// believes reports whether what an origin may have brought about for clients of these
// networks, c among them, says anything of the upstream: it does not while others are
// served. One client may have two addresses, or two users: two are believed if nobody else
// is served, and more if there are no more of those who are served.
func (u *Upstream) believes(now instant, networks []uint64, c Client) bool {
	switch {
	case c == 0:
		return true
	case len(networks) < 2:
		return !u.served.another(now, c, servedLately)
	}
	served := u.served.outside(now, networks, servedLately)
	return served == 0 || len(networks) >= manyClients && len(networks) >= served
}

// isFewClients records a failure that an origin may have brought about, and reports whether
// only few clients have such failures, while others are served: then they say nothing of the
// upstream. One that has many addresses is not another one at each.
func (u *Upstream) isFewClients(now instant, c Client) bool {
	u.failing.add(now, c)
	return !u.believes(now, u.failing.networks(now, failedLately), c)
}

// leaveToOthers has a client whose probe has ended leave the next one to others, unless it
// has told what is certain, or the others hardly have to wait. Called with mu held.
func (u *Upstream) leaveToOthers(now instant, o *Observation) {
	b := &u.breaker
	certain := o.Kind == ConnectFailure || o.Kind == Failure && !o.Relayed || o.Kind == AuthFault && o.Destination == 0
	brief := b.state == Open && !b.auth && o.Kind != AuthFault && o.Probe == b.probe && max(b.waited(now), b.until.sub(now)) < briefly
	if b.state != Closed && !certain && !brief {
		b.leaving.add(o.Client)
	}
}
