package egress

import (
	"strings"

	"github.com/caddy-egress/egress/internal/failure"
)

// This file contains what is looked at before a request goes on to another proxy.

// loops reports whether the request has passed through this handler before: it says so
// itself, or it has come over a connection that this process has dialed.
func (t *request) loops() bool {
	if d := t.p.direct; d != nil && d.Self.IsOwnDial(t.r) {
		return true
	}
	for _, v := range t.r.Header["Via"] {
		if strings.Contains(v, t.p.via.token) {
			return true
		}
	}
	return false
}

// maxVia bounds the Via fields of a request. They go on to upstreams with CONNECT, and it
// must not be the client who decides how large a head an upstream has to take.
const maxVia = 2 << 10

// checkVia refuses a request that comes back to this handler, or that has passed through
// too many others, or says so.
func (t *request) checkVia() error {
	if t.loops() {
		return failure.Loop
	}
	n := 0
	for _, v := range t.r.Header["Via"] {
		n += len("Via: \r\n") + len(v)
	}
	if n > maxVia {
		return failure.Via
	}
	return nil
}
