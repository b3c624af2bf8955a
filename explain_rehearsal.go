package egress

import "github.com/caddy-egress/egress/internal/core"

// rehearsal is a request that is explained and not served.
type rehearsal struct {
	*core.Request
	running bool // the configuration is in use
}
