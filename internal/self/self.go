package self

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/target"
)

// Check recognises addresses on which this Caddy itself listens: its sites,
// this proxy, and the admin endpoint. Dialing them would be a loop, or hand the
// admin endpoint to whoever may use the proxy.
type Check struct {
	// adminHosts are further host names under which an admin listener is
	// bound, per port.
	adminHosts map[uint16][]string

	// sites are the hosts that the servers of the configuration are bound to, where
	// what is written there does not tell the address: Caddy knows its listeners by
	// what is written.
	sites []siteHost

	dials   *ownDials
	sockets *ownSockets
	local   atomic.Pointer[localAddrs]
	usage   func(network, addr string) int
	active  func() <-chan struct{}
	listAll func() ([]net.Addr, error)
}

// siteHost is a host as it is written, and its address if it is one.
type siteHost struct {
	text string
	addr netip.Addr
}

// ListensOn adds the host of a server. Its ports do not matter: a server may get
// further ones, for redirects.
func (s *Check) ListensOn(host string) {
	site := siteHost{text: host}
	if addr, err := netip.ParseAddr(host); err == nil {
		site.addr = addr.Unmap().WithZone("")
	}
	if host != "" && host != site.addr.String() && !slices.Contains(s.sites, site) {
		s.sites = append(s.sites, site)
	}
}

// localAddrs are the addresses of this machine at a point in time.
type localAddrs struct {
	set map[netip.Addr]struct{}
	at  time.Time
}

// localAddrsTTL bounds how often the interfaces are listed.
const localAddrsTTL = 10 * time.Second

// Config is what a check is told.
type Config struct {
	// Admin are the addresses of admin listeners.
	Admin []HostPort

	// Usage is how many listeners there are on an address, as Caddy counts them.
	Usage func(network, addr string) int

	// Active tells the active configuration from others.
	Active func() <-chan struct{}

	// Interfaces lists the addresses of this machine. Default: the system's.
	Interfaces func() ([]net.Addr, error)

	// Sockets lists the listening sockets of this process, and says whether it can.
	// Default: what the kernel tells, which all checks of the process share, as they
	// do what they have dialed.
	Sockets func() ([]listening.Socket, bool)
}

// New returns a check.
func New(c Config) *Check {
	s := &Check{
		dials: &allDials, sockets: &allSockets, usage: c.Usage, active: c.Active, listAll: c.Interfaces,
		adminHosts: make(map[uint16][]string),
	}
	if s.listAll == nil {
		s.listAll = net.InterfaceAddrs
	}
	if c.Sockets != nil {
		s.dials = new(ownDials)
		s.sockets = &ownSockets{scan: func() *socketList { return listOf(c.Sockets()) }}
	}
	for _, a := range c.Admin {
		s.adminHosts[a.Port] = append(s.adminHosts[a.Port], a.Host)
	}
	return s
}

// IsSelf reports whether a connection to the address would reach a listener of
// this process, or could, by way of a gateway that turns the address into one that
// it carries (see target.Carried). A listener bound to all addresses, or to a name,
// counts for every local address.
func (s *Check) IsSelf(a netip.Addr, port uint16) bool {
	if a.IsUnspecified() {
		// Systems connect to loopback then, some to that of the other family.
		return s.IsSelf(ipv4Loopback, port) || s.IsSelf(netip.IPv6Loopback(), port)
	}
	if s.listensAt(a, port) {
		return true
	}
	carried, n := target.Carried(a)
	for _, c := range carried[:n] {
		if s.listensAt(c, port) {
			return true
		}
	}
	return false
}

// listensAt is IsSelf for an address as it stands. The kernel's list may be a moment
// old, so that Caddy is asked as well; but where there is a list, a listener that is
// bound to a name is where the list has it, and not possibly anywhere.
func (s *Check) listensAt(a netip.Addr, port uint16) bool {
	if s.listens(netip.AddrPortFrom(a, port).String()) {
		return true
	}
	if !s.IsLocal(a) {
		return s.sockets.last().bound(a, port)
	}
	return s.listensHere(a, port)
}

// listensHere is listensAt for an address that leads to this machine.
func (s *Check) listensHere(a netip.Addr, port uint16) bool {
	p := strconv.Itoa(int(port))
	list := s.sockets.now(false, s.active())
	if s.boundWide(a, port, p) || s.boundTo(a, p) {
		return true
	}
	if named := s.boundToName(p); named || list.reaches(a, port) {
		list = s.sockets.now(true, s.active())
		return list.reaches(a, port) || named && list == nil
	}
	return false
}

// boundTo reports whether a server of the configuration listens on the address, which
// is written in another way there.
func (s *Check) boundTo(a netip.Addr, p string) bool {
	for _, site := range s.sites {
		if (site.addr.IsUnspecified() || site.addr.IsValid() && site.addr == a.WithZone("")) && s.listens(net.JoinHostPort(site.text, p)) {
			return true
		}
	}
	return false
}

// boundToName reports whether a listener on the port is bound to a name, be it of this
// machine or of one of its addresses only.
func (s *Check) boundToName(p string) bool {
	if s.listens("localhost:" + p) {
		return true
	}
	for _, site := range s.sites {
		if !site.addr.IsValid() && s.listens(net.JoinHostPort(site.text, p)) {
			return true
		}
	}
	return false
}

var ipv4Loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// boundWide reports whether a listener on the port is bound to all addresses, or to a
// name that was given.
func (s *Check) boundWide(a netip.Addr, port uint16, p string) bool {
	for _, host := range [...]string{"", "[::]"} {
		if s.listens(host + ":" + p) {
			return true
		}
	}
	if a.Unmap().Is4() && s.listens("0.0.0.0:"+p) {
		return true
	}
	for _, host := range s.adminHosts[port] {
		if s.listens(net.JoinHostPort(host, p)) {
			return true
		}
	}
	return false
}

// listens reports whether a listener of this process is bound to an address
// that was written like this, on whichever network a site's bind names.
func (s *Check) listens(addr string) bool {
	return s.usage("tcp", addr) > 0 || s.usage("tcp4", addr) > 0 || s.usage("tcp6", addr) > 0
}

// RunsHere reports whether what is dialed at an address runs on this machine.
func (s *Check) RunsHere(a netip.Addr) bool {
	a = a.Unmap()
	if a.IsUnspecified() || s.IsLocal(a) || LeadsHere(a) {
		return true
	}
	carried, n := target.Carried(a)
	return slices.ContainsFunc(carried[:n], s.IsLocal)
}

// IsLocal reports whether an address is one of this machine.
func (s *Check) IsLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	_, ok := s.locals().set[a.WithZone("")]
	return ok
}

func (s *Check) locals() *localAddrs {
	now := time.Now()
	if l := s.local.Load(); l != nil && now.Sub(l.at) < localAddrsTTL {
		return l
	}
	l := &localAddrs{set: make(map[netip.Addr]struct{}), at: now}
	addrs, _ := s.listAll() // without a list, loopback is still known
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
			l.set[prefix.Addr().Unmap()] = struct{}{}
		}
	}
	s.local.Store(l)
	return l
}

// HostPort is an address as it was written, not resolved.
type HostPort struct {
	Host string
	Port uint16
}
