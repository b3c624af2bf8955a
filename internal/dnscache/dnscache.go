package dnscache

import (
	"context"
	"net/netip"
	"time"
)

// Family is an address family.
type Family uint8

// The address families.
const (
	IPv4 Family = iota
	IPv6
	families
)

func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// FamilyOf is the family of an address. An IPv4-mapped address is IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// The limits of what is remembered.
const (
	// DefaultMaxNames is how many names are remembered.
	DefaultMaxNames = 10_000

	// DefaultMaxQuestions is how many questions may be under way.
	DefaultMaxQuestions = 16_384

	// MaxAddrs is how many addresses of one answer are used; the rest of a
	// longer answer is dropped, which Answer.More tells.
	MaxAddrs = 32

	// MinTTL and MaxTTL bound the time for which addresses are remembered.
	MinTTL = 5 * time.Second
	MaxTTL = time.Hour

	// SystemTTL is for answers of the system resolver, which tells none.
	SystemTTL = 30 * time.Second

	// MinNegativeTTL and MaxNegativeTTL bound it where there are no addresses
	// (RFC 2308), MinNegativeTTL also being for answers that say nothing.
	MinNegativeTTL = time.Second
	MaxNegativeTTL = 30 * time.Second

	// FailureTTL is how long a failure to resolve is remembered (RFC 9520 §3.2).
	FailureTTL = time.Second

	// SilentTTL is how long it is remembered at most that nobody answered for one family
	// of a name whose addresses of the other are known: FailureTTL the first time, since
	// answers get lost, and twice as long each further time in a row.
	SilentTTL = 30 * time.Second

	// StaleFor is how long after their time addresses are still used if they
	// cannot be asked for anew (RFC 8767), and StaleRecheck how long until
	// that is tried again.
	StaleFor     = 5 * time.Minute
	StaleRecheck = 5 * time.Second

	// StaleAfter is how long the backend may take before such addresses are
	// used meanwhile (RFC 8767 §5, client response timer).
	StaleAfter = 1800 * time.Millisecond

	// flightTimeout ends a question that the backend does not end itself.
	flightTimeout = 30 * time.Second
)

// Backend asks for the addresses of a name. It is asked for several names at
// the same time.
type Backend interface {
	// Lookup returns what is known of name, which is lower-case ASCII without
	// a trailing dot and is meant as absolute. An error means that nothing is
	// known: that nobody could be asked, or that nobody could tell.
	Lookup(ctx context.Context, name string, f Family) (Reply, error)

	// CloseIdle closes connections that wait for their next use. The backend
	// can still be asked.
	CloseIdle()
}

// Reply is what a backend knows of a name.
type Reply struct {
	// Addrs are the addresses, none where the name has none.
	Addrs []netip.Addr

	// TTL is for how long that is so.
	TTL time.Duration

	// NoName says that the name does not exist at all (NXDOMAIN).
	NoName bool

	// Partial says that there are more addresses, which are not known.
	Partial bool
}

// Answer is what a caller of [Cache.Lookup] gets.
type Answer struct {
	// Addrs are at least one and at most MaxAddrs addresses, unmapped and
	// each once; or nil with Err. They are shared: do not change them.
	Addrs []netip.Addr

	// More says that the name has other addresses of the family, too.
	More bool

	// Err is a *net.DNSError, shared as well. It says IsNotFound where the
	// name or its addresses of this family do not exist, IsTimeout where
	// nobody answered, and IsTemporary where nobody could tell.
	Err error

	// Stale says that the time of the addresses is over and that they could
	// not be asked for anew.
	Stale bool
}
