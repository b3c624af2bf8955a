package self

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// This file contains how a connection is recognised, at the server's end, that this
// process has dialed itself: the last resort where an own listener was not recognised
// before it was dialed.

// link is a TCP connection by its two ends, as the one who has dialed it sees them.
type link struct{ from, to netip.AddrPort }

// ownDials are the open connections that this process has dialed to addresses of this
// machine. Others cannot come back with the same two ends.
type ownDials struct {
	count  atomic.Int64   // of all
	shards [64]dialsShard // by the port dialed from, which is another one for each
}

type dialsShard struct {
	mu   sync.Mutex
	open map[link]weak.Pointer[net.TCPConn] // guarded by mu
}

func (o *ownDials) shard(l link) *dialsShard {
	return &o.shards[l.from.Port()%uint16(len(o.shards))]
}

// allDials are those of the process: what was dialed by one handler may reach another.
var allDials ownDials

// add notes a connection until it is garbage.
func (o *ownDials) add(conn *net.TCPConn, l link) {
	p, shard := weak.Make(conn), o.shard(l)
	shard.mu.Lock()
	if shard.open == nil {
		shard.open = make(map[link]weak.Pointer[net.TCPConn])
	}
	if _, again := shard.open[l]; !again {
		o.count.Add(1)
	}
	shard.open[l] = p
	shard.mu.Unlock()
	runtime.AddCleanup(conn, func(l link) { o.remove(l, p) }, l)
}

func (o *ownDials) remove(l link, p weak.Pointer[net.TCPConn]) {
	shard := o.shard(l)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.open[l] == p { // else the same ends were dialed again since
		delete(shard.open, l)
		o.count.Add(-1)
	}
}

// has reports whether a connection with these ends is open.
func (o *ownDials) has(l link) bool {
	shard := o.shard(l)
	shard.mu.Lock()
	conn := shard.open[l].Value()
	shard.mu.Unlock()
	if conn == nil {
		return false
	}
	raw, err := conn.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil // fails where it was closed
}

// Dialed notes a connection that was dialed, if it is one to this machine, and to a port
// on which this process may listen. It reports whether it is one to an own listener, which
// was not to be seen before: addresses may be local by a route alone, and new ones are not
// listed at once. IPv4 dials these from themselves, unless it is bound to something else;
// otherwise the kernel is asked, where this process listens on the port.
func (s *Check) Dialed(conn *net.TCPConn, bound bool) (loop bool) {
	l := link{addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())}
	to, port := l.to.Addr(), l.to.Port()
	seen := s.IsLocal(to)
	if !seen && l.from.Addr() != to && (!bound && to.Is4() || !s.sockets.now(false, s.active()).reaches(to, port) || !LeadsHere(to)) {
		return false
	}
	if list := s.sockets.last(); list == nil || list.listensOn(port) {
		s.dials.add(conn, l)
	}
	return !seen && s.listensHere(to, port)
}

// IsOwnDial reports whether a request has come over a connection that this process has
// dialed.
func (s *Check) IsOwnDial(r *http.Request) bool {
	if s.dials.count.Load() == 0 {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false // a unix socket
	}
	return s.dials.has(link{plain(from), addrPort(local)})
}

// addrPort is a TCP address in the one form in which addresses are compared.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return plain(tcp.AddrPort())
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
