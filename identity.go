package egress

import (
	"fmt"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what a handler is known by, from one configuration to the
// next: its name, or else its place.

// identities are those of the handlers of one configuration.
type identities struct {
	names    map[string]string         // with the place of the handler that has the name
	numbers  map[*caddyhttp.Server]int // handlers so far, in the order in which they are provisioned
	handlers int
}

var (
	identitiesMu sync.Mutex
	configs      = map[*caddyhttp.App]*identities{} // guarded by identitiesMu, and so are its values
)

// identity returns what the handler is known by across reloads: its name, or else
// its place, that is, the addresses of its server, and which of the handlers there
// it is, counted from 1: `:8080#1`. The function gives that up.
func (h *Handler) identity(ctx caddy.Context) (string, func(), error) {
	if h.Name != "" && !plaintext.IsName(h.Name) {
		return "", nil, fmt.Errorf("name: %q is not made of 1 to 64 letters, digits, '-', '_' and '.'", h.Name)
	}
	app, server := caddyserver.Of(ctx)
	if app == nil || server == nil { // nothing to be known by but the name
		if h.Name != "" {
			return h.Name, func() {}, nil
		}
		return fmt.Sprintf("%p", h), func() {}, nil
	}
	identitiesMu.Lock()
	defer identitiesMu.Unlock()
	ids := configs[app]
	if ids == nil {
		ids = &identities{names: make(map[string]string), numbers: make(map[*caddyhttp.Server]int)}
		configs[app] = ids
	}
	place := fmt.Sprintf("%s#%d", strings.Join(server.Listen, ","), ids.numbers[server]+1)
	name := h.Name
	if n := caddyserver.InstanceNumber(app, server, name); name != "" && n > 1 {
		name += fmt.Sprintf("#%d", n)
	}
	if other := ids.names[name]; other != "" {
		return "", nil, fmt.Errorf("name: %q is taken by the handler %s; this one is %s", name, other, place)
	}
	ids.numbers[server]++
	h.first = ids.numbers[server] == 1
	ids.handlers++
	leave := func() {
		identitiesMu.Lock()
		defer identitiesMu.Unlock()
		if ids.handlers--; ids.handlers == 0 {
			delete(configs, app)
		}
	}
	if name == "" {
		return place, leave, nil
	}
	ids.names[name] = place
	return name, leave, nil
}
