package main

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/faultnet"
)

// link is a piece of network that fails: whoever wants to reach target connects to
// addr. Connection k of a link is treated as the seed, the name of the link and k
// say, in each run.
type link struct {
	name   string
	addr   string
	target string
	seed   uint64
	kind   linkKind

	proxy *faultnet.Proxy

	mu      sync.Mutex
	strikes []time.Time // ascending
	carried int         // connections of the proxies before this one
	kinds   map[faultnet.Kind]int
}

// linkKind is what a link carries, which decides where random bytes are slipped in:
// only where they can be told from what is carried.
type linkKind uint8

const (
	carriesHTTP  linkKind = iota // in front of everything
	carriesTLS                   // anywhere
	carriesBytes                 // nowhere: nobody could tell
)

// startLink starts a link that is calm.
func startLink(name, target string, seed uint64, kind linkKind) (*link, error) {
	l := &link{name: name, target: target, seed: seed, kind: kind, kinds: make(map[faultnet.Kind]int)}
	proxy, err := faultnet.Start(target, nil)
	if err != nil {
		return nil, err
	}
	l.proxy, l.addr = proxy, proxy.Addr
	return l, nil
}

// storm breaks all connections, and those that follow fail as the seed says.
func (l *link) storm() error { return l.restart(l.script) }

// calm breaks all connections; those that follow are left alone.
func (l *link) calm() error { return l.restart(nil) }

func (l *link) restart(script func(int) faultnet.Script) error {
	l.mu.Lock()
	l.strikes = append(l.strikes, time.Now())
	l.carried += l.proxy.Conns()
	l.mu.Unlock()
	if err := l.proxy.Close(); err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", l.addr)
	if err != nil {
		return err
	}
	l.proxy = faultnet.Serve(ln, l.target, script)
	return nil
}

func (l *link) stop() { _ = l.proxy.Close() }

// script draws what happens to a connection.
func (l *link) script(conn int) faultnet.Script {
	name := fnv.New64a()
	_, _ = name.Write([]byte(l.name)) // never fails
	r := rand.New(rand.NewPCG(l.seed^name.Sum64(), uint64(conn)))
	s := faultnet.Script{Seed: r.Uint64(), Notify: l.struck}
	s.Up, s.Down = pace(r), pace(r)
	if r.IntN(2) == 0 {
		d := &s.Down
		if r.IntN(3) == 0 {
			d = &s.Up
		}
		d.Faults = []faultnet.Fault{l.fault(r)}
	}
	return s
}

// pace draws how the bytes of a direction travel: mostly as they come.
func pace(r *rand.Rand) faultnet.Direction {
	switch r.IntN(10) {
	case 0:
		return faultnet.Direction{Latency: time.Duration(1+r.IntN(20)) * time.Millisecond, Jitter: 5 * time.Millisecond}
	case 1: // 200 KiB/s
		return faultnet.Drip(1<<10, 5*time.Millisecond)
	case 2: // heads in pieces
		return faultnet.Direction{MaxPiece: 200}
	}
	return faultnet.Direction{}
}

// fault draws what goes wrong, and after how many bytes.
func (l *link) fault(r *rand.Rand) faultnet.Fault {
	after := int64(math.Exp(r.Float64()*math.Log(256<<10))) - 1
	switch n := r.IntN(100); {
	case n < 30:
		return faultnet.Reset(after)
	case n < 60: // within TLS: truncated, without close_notify
		return faultnet.Truncate(after)
	case n < 72:
		return faultnet.HalfClose(after)
	case n < 84 || l.kind == carriesBytes:
		return faultnet.BlackHole(after)
	}
	if l.kind == carriesHTTP {
		after = 0
	}
	return faultnet.Garbage(after, 16+r.IntN(64))
}

func (l *link) struck(e faultnet.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strikes = append(l.strikes, time.Now())
	l.kinds[e.Fault.Kind]++
}

// struckWithin reports whether a fault struck in a span of time.
func (l *link) struckWithin(from, to time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return within(l.strikes, from, to)
}

// within reports whether one of times, which ascend, lies in a span.
func within(times []time.Time, from, to time.Time) bool {
	for i := len(times) - 1; i >= 0 && !times[i].Before(from); i-- {
		if !times[i].After(to) {
			return true
		}
	}
	return false
}

func (l *link) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("%d connections", l.carried+l.proxy.Conns())
	for k := faultnet.KindReset; k <= faultnet.KindGarbage; k++ {
		s += fmt.Sprintf(", %d × %v", l.kinds[k], k)
	}
	return s
}
