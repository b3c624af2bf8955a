package egress

import (
	"cmp"
	"errors"
	"fmt"
	"unique"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains where the connections of a route leave from.

// errSourceUnused refuses settings about connections that the route never makes.
var errSourceUnused = errors.New("neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own")

// hasSource reports whether the route says where its connections leave from.
func (r *Route) hasSource() bool {
	return len(r.LocalAddresses) > 0 || r.LocalAddressPick != "" || r.Interface != ""
}

// leavesDirectly reports whether requests of the route may leave past all upstreams.
func (r *Route) leavesDirectly() bool { return r.To == targetDirect || r.Fallback == targetDirect }

// provisionSource finds the door through which the route leaves directly: that of the
// handler, or one that differs in where connections come from, and in the addresses of
// a destination that it takes.
func (r *Route) provisionSource(h *Handler) error {
	r.dialer = h.dialer
	if !r.hasSource() && r.PreferIP == "" {
		return nil
	}
	if !r.leavesDirectly() {
		return fmt.Errorf("local_addresses, interface, prefer_ip: %w", errSourceUnused)
	}
	d, err := h.dialer.leaving(r.PreferIP, r.LocalAddresses, r.LocalAddressPick, r.Interface)
	if err != nil {
		return err
	}
	if r.hasSource() {
		h.warnAboutSources(d.sources)
	}
	if r.path, err = usePath(h.circuit, h.place(), h.reach, d.id.Value()); err != nil {
		return err
	}
	r.dialer = &directWay{d, r.path.Value.destinations("", h.destinations.logger)}
	return nil
}

// leaving is a dialer whose connections leave as these settings say, each of which is
// empty for that of d. The pick goes with the addresses.
func (d *dialer) leaving(prefer string, addresses []string, pick, device string) (*dialer, error) {
	out := *d
	defer func() { out.id = out.identify() }()
	if prefer != "" {
		order, ok := preferIP[prefer]
		if !ok {
			return nil, fmt.Errorf("prefer_ip: unknown value '%s': one of 4, 6, 4_only, 6_only", plaintext.Printable(prefer))
		}
		out.order = order
	}
	if len(addresses) == 0 && pick == "" && device == "" {
		if err := d.sources.suit(out.order); err != nil {
			return nil, fmt.Errorf("prefer_ip: local_addresses of the transport: %w", err)
		}
		return &out, nil
	}
	if d.sources != nil {
		device = cmp.Or(device, d.sources.device)
	}
	var err error
	out.sources, err = newSources(addresses, pick, device, out.order)
	return &out, err
}

// identify names where connections leave from, and to which addresses. Two dialers of
// one transport with the same settings share connections, also over a reload.
func (d *dialer) identify() unique.Handle[string] {
	var s sources
	if d.sources != nil {
		s.addrs, s.sticky, s.device = d.sources.addrs, d.sources.sticky, d.sources.device
	}
	return unique.Make(fmt.Sprint(d.order.first, d.order.only, s.addrs, s.sticky, s.device))
}
