package egress

import (
	"errors"
	"fmt"

	"github.com/caddy-egress/egress/internal/core"
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
	r.way.Direct = h.proxy.Direct
	if !r.hasSource() && r.PreferIP == "" {
		return nil
	}
	if !r.leavesDirectly() {
		return fmt.Errorf("local_addresses, interface, prefer_ip: %w", errSourceUnused)
	}
	d, err := h.proxy.Direct.Leaving(r.PreferIP, r.LocalAddresses, r.LocalAddressPick, r.Interface)
	if err != nil {
		return err
	}
	if r.hasSource() {
		h.warnAboutSources(d.Sources)
	}
	if r.path, err = usePath(h.circuit, h.place(), h.reach, d.ID.Value()); err != nil {
		return err
	}
	r.way.Direct = &core.Direct{Dialer: d, Circuits: r.path.Value.circuits.Path("", h.logger.Named("health"))}
	return nil
}
