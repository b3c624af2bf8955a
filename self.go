package egress

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/target"
)

// selfCheck recognises addresses on which this Caddy itself listens: its sites,
// this proxy, and the admin endpoint. Dialing them would be a loop, or hand the
// admin endpoint to whoever may use the proxy.
type selfCheck struct {
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
	usage   func(network, addr string) int // caddy.ListenerUsage
	listAll func() ([]net.Addr, error)     // net.InterfaceAddrs
}

// siteHost is a host as it is written, and its address if it is one.
type siteHost struct {
	text string
	addr netip.Addr
}

// listensOn adds the addresses of a server. Its ports do not matter: a server may get
// further ones, for redirects.
func (s *selfCheck) listensOn(listen []string) {
	repl := caddy.NewReplacer()
	for _, text := range listen {
		na, err := caddy.ParseNetworkAddress(repl.ReplaceAll(text, ""))
		if err != nil || na.IsUnixNetwork() || na.IsFdNetwork() {
			continue // an error is Caddy's to report
		}
		site := siteHost{text: na.Host}
		if addr, err := netip.ParseAddr(na.Host); err == nil {
			site.addr = addr.Unmap().WithZone("")
		}
		if na.Host != "" && na.Host != site.addr.String() && !slices.Contains(s.sites, site) {
			s.sites = append(s.sites, site)
		}
	}
}

// localAddrs are the addresses of this machine at a point in time.
type localAddrs struct {
	set map[netip.Addr]struct{}
	at  time.Time
}

// localAddrsTTL bounds how often the interfaces are listed.
const localAddrsTTL = 10 * time.Second

func newSelfCheck(adminAddresses []hostPort) *selfCheck {
	s := &selfCheck{dials: &allDials, sockets: &allSockets, usage: caddy.ListenerUsage, listAll: net.InterfaceAddrs, adminHosts: make(map[uint16][]string)}
	for _, a := range adminAddresses {
		s.adminHosts[a.port] = append(s.adminHosts[a.port], a.host)
	}
	return s
}

// isSelf reports whether a connection to the address would reach a listener of
// this process, or could, by way of a gateway that turns the address into one that
// it carries (see target.Carried). A listener bound to all addresses, or to a name,
// counts for every local address.
func (s *selfCheck) isSelf(a netip.Addr, port uint16) bool {
	if a.IsUnspecified() {
		// Systems connect to loopback then, some to that of the other family.
		return s.isSelf(ipv4Loopback, port) || s.isSelf(netip.IPv6Loopback(), port)
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

// listensAt is isSelf for an address as it stands. The kernel's list may be a moment
// old, so that Caddy is asked as well; but where there is a list, a listener that is
// bound to a name is where the list has it, and not possibly anywhere.
func (s *selfCheck) listensAt(a netip.Addr, port uint16) bool {
	p := strconv.Itoa(int(port))
	if s.listens(net.JoinHostPort(a.String(), p)) {
		return true
	}
	if !s.isLocal(a) {
		return s.sockets.last().bound(a, port)
	}
	return s.listensHere(a, port, p)
}

// listensHere is listensAt for an address that leads to this machine.
func (s *selfCheck) listensHere(a netip.Addr, port uint16, p string) bool {
	list := s.sockets.now(false)
	if s.boundWide(a, port, p) || s.boundTo(a, p) {
		return true
	}
	if named := s.boundToName(p); named || list.reaches(a, port) {
		list = s.sockets.now(true)
		return list.reaches(a, port) || named && list == nil
	}
	return false
}

// boundTo reports whether a server of the configuration listens on the address, which
// is written in another way there.
func (s *selfCheck) boundTo(a netip.Addr, p string) bool {
	for _, site := range s.sites {
		if (site.addr.IsUnspecified() || site.addr.IsValid() && site.addr == a.WithZone("")) && s.listens(net.JoinHostPort(site.text, p)) {
			return true
		}
	}
	return false
}

// boundToName reports whether a listener on the port is bound to a name, be it of this
// machine or of one of its addresses only.
func (s *selfCheck) boundToName(p string) bool {
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
func (s *selfCheck) boundWide(a netip.Addr, port uint16, p string) bool {
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
func (s *selfCheck) listens(addr string) bool {
	return s.usage("tcp", addr) > 0 || s.usage("tcp4", addr) > 0 || s.usage("tcp6", addr) > 0
}

func (s *selfCheck) isLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	_, ok := s.locals().set[a.WithZone("")]
	return ok
}

func (s *selfCheck) locals() *localAddrs {
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
