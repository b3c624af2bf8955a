package egress

import (
	"errors"
	"fmt"
)

// This file contains where the connections of a route leave from.

// errSourceUnused refuses local addresses that no connection would have.
var errSourceUnused = errors.New("neither the target nor the fallback is direct; upstreams have a local_address of their own")

// hasSource reports whether the route says where its connections leave from.
func (r *Route) hasSource() bool {
	return len(r.LocalAddresses) > 0 || r.LocalAddressPick != "" || r.Interface != ""
}

// leavesDirectly reports whether requests of the route may leave past all upstreams.
func (r *Route) leavesDirectly() bool { return r.To == targetDirect || r.Fallback == targetDirect }

// provisionSource finds the door through which the route leaves directly: that of the
// handler, or one that differs in where connections come from.
func (r *Route) provisionSource(h *Handler) error {
	r.dialer = h.dialer
	if !r.hasSource() {
		return nil
	}
	if !r.leavesDirectly() {
		return fmt.Errorf("local_addresses, interface: %w", errSourceUnused)
	}
	device := r.Interface
	setDefault(&device, h.transport.Interface)
	own, err := newSources(r.LocalAddresses, r.LocalAddressPick, device, h.dialer.order)
	if err != nil {
		return err
	}
	own.ofRoute()
	h.warnAboutSources(own)
	d := *h.dialer
	d.sources = own
	r.dialer = &d
	return nil
}
