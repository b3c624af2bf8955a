package explain

import "github.com/caddy-egress/egress/internal/core"

// Rehearsal is a request that is explained and not served.
type Rehearsal struct {
	*core.Request
	Running bool // the configuration is in use
}
