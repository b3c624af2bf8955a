package self

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/listening"
)

// This file contains on which addresses this process listens, as the kernel has it:
// whoever opened a socket, and whatever is written in a configuration.

// socketList is what the listening sockets of this process are bound to.
type socketList struct {
	exact  map[netip.AddrPort]struct{}
	wide   map[uint16]families // bound to all addresses, by port
	ports  map[uint16]struct{} // of all
	unix   []string            // paths
	begun  time.Time
	took   time.Duration
	config <-chan struct{} // that was active
}

type families struct{ v4, v6 bool }

func newSocketList() *socketList {
	return &socketList{exact: make(map[netip.AddrPort]struct{}), wide: make(map[uint16]families), ports: make(map[uint16]struct{})}
}

// add notes a listening TCP socket; dual says that IPv4 comes in at an IPv6 one.
func (l *socketList) add(a netip.AddrPort, dual bool) {
	ip := a.Addr().Unmap().WithZone("")
	l.ports[a.Port()] = struct{}{}
	if !ip.IsUnspecified() {
		l.exact[netip.AddrPortFrom(ip, a.Port())] = struct{}{}
		return
	}
	w := l.wide[a.Port()]
	w.v4, w.v6 = w.v4 || ip.Is4() || dual, w.v6 || ip.Is6()
	l.wide[a.Port()] = w
}

// ListensOn reports whether a socket is bound to a port, on any address.
func (l *socketList) listensOn(port uint16) bool {
	_, ok := l.ports[port]
	return ok
}

// bound reports whether a socket is bound to exactly this address.
func (l *socketList) bound(ip netip.Addr, port uint16) bool {
	if l == nil {
		return false
	}
	_, ok := l.exact[netip.AddrPortFrom(ip.Unmap().WithZone(""), port)]
	return ok
}

// reaches reports whether a connection to an address of this machine reaches a socket.
func (l *socketList) reaches(ip netip.Addr, port uint16) bool {
	if l == nil {
		return false
	}
	w := l.wide[port]
	return l.bound(ip, port) || ip.Unmap().Is4() && w.v4 || ip.Is6() && !ip.Is4In6() && w.v6
}

const (
	// socketsTTL is how old a list may be that does not have an address.
	socketsTTL = time.Second

	// Making lists takes no more than one part in scanShare of the time, or in
	// doubtShare where one is in doubt, if it takes longer than cheapScan.
	scanShare, doubtShare = 100, 20
	cheapScan             = time.Millisecond
)

// ownSockets keeps the list for a while. A nil one knows nothing.
type ownSockets struct {
	scan func() *socketList // nil where that cannot be had
	mu   sync.Mutex         // held while scanning
	list atomic.Pointer[socketList]
}

// allSockets are those of the process.
var allSockets = ownSockets{scan: func() *socketList { return listOf(listening.Sockets()) }}

// listOf is nil where the kernel does not tell.
func listOf(sockets []listening.Socket, ok bool) *socketList {
	if !ok {
		return nil
	}
	list := newSocketList()
	for _, s := range sockets {
		switch {
		case s.Addr.IsValid():
			list.add(s.Addr, s.Dual)
		case s.Path != "":
			list.unix = append(list.unix, s.Path)
		}
	}
	return list
}

// last is the list as it is, nil if there is none.
func (o *ownSockets) last() *socketList {
	if o == nil {
		return nil
	}
	return o.list.Load()
}

// now is a list that is not old, and was made since the configuration has changed; nil
// where the kernel does not tell. In doubt, it is made anew.
func (o *ownSockets) now(doubt bool, active <-chan struct{}) *socketList {
	l := o.last()
	if o == nil || l.recent(doubt, active) {
		return l
	}
	asked := time.Now()
	if l == nil || doubt {
		o.mu.Lock()
	} else if !o.mu.TryLock() {
		return l // another one is making it
	}
	defer o.mu.Unlock()
	if l = o.list.Load(); l != nil && l.begun.After(asked) {
		return l
	}
	begun := time.Now()
	scanned := o.scan()
	if scanned == nil {
		return l // no descriptor for it: what was known is still likely
	}
	scanned.begun, scanned.took, scanned.config = begun, time.Since(begun), active
	o.list.Store(scanned)
	return scanned
}

func (l *socketList) recent(doubt bool, active <-chan struct{}) bool {
	switch {
	case l == nil:
		return false
	case doubt:
		return l.took > cheapScan && time.Since(l.begun) < doubtShare*l.took
	}
	return time.Since(l.begun) < max(socketsTTL, scanShare*l.took) && l.config == active
}

// OwnsPath reports whether this process listens on a unix socket, however its path is
// written.
func (s *Check) OwnsPath(path string) bool {
	if s.usage("unix", path) > 0 {
		return true
	}
	list := s.sockets.now(false, s.active())
	if list == nil || len(list.unix) == 0 {
		return false
	}
	there, err := os.Stat(path)
	for _, p := range list.unix {
		if filepath.Clean(p) == path {
			return true
		}
		if err == nil {
			if own, err := os.Stat(p); err == nil && os.SameFile(there, own) {
				return true
			}
		}
	}
	return false
}
