package dial

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// Sources are where connections leave from, by configuration: local addresses, a
// network interface, or both. nil leaves it to the system.
type Sources struct {
	Addrs  [2][]netip.Addr // by family
	Device string
	Sticky bool // each user has an address of its own
	turn   atomic.Uint64
}

// NewSources reads the settings. It returns nil where they leave it to the system.
// An order that uses one family only wants an address of it.
func NewSources(addresses []string, pick, device string, order FamilyOrder) (*Sources, error) {
	if err := CheckInterface(device); err != nil && device != "" {
		return nil, fmt.Errorf("interface: '%s' is %w", plaintext.Printable(device), err)
	}
	if len(addresses) == 0 && pick != "" {
		return nil, errors.New("local_address_pick: there are no local_addresses to pick from")
	}
	if len(addresses) == 0 && device == "" {
		return nil, nil
	}
	s := &Sources{Device: device}
	if err := s.addAddresses(addresses); err != nil {
		return nil, fmt.Errorf("local_addresses: %w", err)
	}
	if err := s.suit(order); err != nil {
		return nil, fmt.Errorf("local_addresses: %w", err)
	}
	switch pick {
	case "", PickRoundRobin:
	case PickUserHash:
		s.Sticky = true
	default:
		return nil, fmt.Errorf("local_address_pick: unknown value '%s': one of round_robin, user_hash", pick)
	}
	return s, nil
}

// CheckAddresses refuses addresses that connections cannot leave from, and those that the
// order (a value of prefer_ip, or none) does not use.
func CheckAddresses(addresses []string, prefer string) error {
	s := new(Sources)
	if err := s.addAddresses(addresses); err != nil {
		return err
	}
	return s.suit(Orders[prefer])
}

func (s *Sources) addAddresses(addresses []string) error {
	seen := make(map[netip.Addr]bool)
	for _, text := range addresses {
		a, err := ParseAddress(text)
		switch {
		case err != nil:
			return fmt.Errorf("'%s': %w", plaintext.Printable(text), err)
		case a.IsUnspecified() || a.IsMulticast():
			return fmt.Errorf("'%s' is no address of a machine", a)
		case seen[a]:
			return fmt.Errorf("'%s' stands there twice", a)
		}
		seen[a] = true
		f := dnscache.FamilyOf(a)
		s.Addrs[f] = append(s.Addrs[f], a)
	}
	return nil
}

// CheckInterface refuses what is no name of a network interface, whether there is one of
// that name or not.
func CheckInterface(name string) error {
	switch {
	case !canBindToInterface:
		return errors.New("possible on Linux only")
	case name == "" || len(name) > maxInterfaceName || strings.ContainsAny(name, "/ \x00"):
		return errors.New("no name of a network interface")
	}
	return nil
}

// suit refuses an order that uses one family only, of which there is no address.
func (s *Sources) suit(order FamilyOrder) error {
	if s != nil && order.only && len(s.Addrs[order.First]) == 0 && len(s.Addrs[1-order.First]) > 0 {
		return fmt.Errorf("none is %s, and prefer_ip uses no others", order.First)
	}
	return nil
}

// Source is where one connection leaves from. The zero value leaves it to the
// system.
type Source struct {
	Addrs  [2]netip.Addr // by family; with one of them, the other family is not used
	device string
}

// Pick returns the source for a dial, whose context ctx is: that of its slot, where
// sources are kept apart.
func (s *Sources) Pick(ctx context.Context) Source {
	if s == nil {
		return Source{}
	}
	var n uint64
	if s.Sticky {
		n = uint64(s.SlotIn(ctx) - 1)
	} else {
		n = s.turn.Add(1) - 1
	}
	out := Source{device: s.Device}
	for f, list := range s.Addrs {
		if size := uint64(len(list)); size > 0 {
			out.Addrs[f] = list[n%size]
			if s.Sticky {
				n /= size
			}
		}
	}
	return out
}

// slotKey is where a context carries the slot of a dial.
type slotKey struct{}

// WithSlot makes a dial leave from the source of a slot.
func WithSlot(ctx context.Context, slot uint32) context.Context {
	if slot == 0 {
		return ctx
	}
	return context.WithValue(ctx, slotKey{}, slot)
}

// SlotIn is the slot of a dial, whose context ctx is; 0 where sources are not kept apart.
func (s *Sources) SlotIn(ctx context.Context) uint32 {
	if !s.KeptApart() {
		return 0
	}
	if slot, ok := ctx.Value(slotKey{}).(uint32); ok {
		return slot
	}
	return s.Slot("")
}

// KeptApart reports whether each user has a source of its own.
func (s *Sources) KeptApart() bool { return s != nil && s.Sticky }

// Slot says which source a user has. Connections are shared only by requests of the same
// slot. It is 0 where sources are not kept apart.
func (s *Sources) Slot(who string) uint32 {
	if !s.KeptApart() {
		return 0
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, who)
	pairs := max(len(s.Addrs[0]), 1) * max(len(s.Addrs[1]), 1)
	return uint32(h.Sum64()%uint64(pairs)) + 1
}

// restrict leaves of the families those in which the source has an address.
func (s Source) restrict(o FamilyOrder) FamilyOrder {
	v4, v6 := s.Addrs[dnscache.IPv4].IsValid(), s.Addrs[dnscache.IPv6].IsValid()
	switch {
	case v4 && !v6:
		return FamilyOrder{dnscache.IPv4, true}
	case v6 && !v4:
		return FamilyOrder{dnscache.IPv6, true}
	}
	return o
}

// apply makes nd dial from the source. The kernel chooses the port when it knows
// the destination, where it can: a port that is chosen before is used up for all
// destinations (see control).
func (s Source) apply(nd *net.Dialer, network string, to netip.Addr) {
	local := s.Addrs[dnscache.FamilyOf(to)]
	switch {
	case !local.IsValid():
	case network == "udp":
		nd.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	default:
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	if nd.LocalAddr != nil || s.device != "" {
		nd.Control = s.control
	}
}

// bindToDevice is what the errors of an interface that cannot be used name as their call.
const bindToDevice = "bind to device"

// explain tells a source that cannot be used, or has no ports left to the
// destination, from a destination that cannot be reached.
func (s Source) explain(err error, to netip.Addr) error {
	call, ok := errors.AsType[*os.SyscallError](err)
	switch {
	case !ok:
		return err
	case call.Syscall == bindToDevice:
		return fmt.Errorf("%w: interface '%s': %w", failure.Interface, s.device, err)
	case call.Syscall == "bind" || call.Syscall == "setsockopt":
		return fmt.Errorf("%w: %w", failure.LocalAddress, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL) && s.Addrs[dnscache.FamilyOf(to)].IsValid():
		return fmt.Errorf("%w: %w", failure.Limit, err)
	}
	return err
}
