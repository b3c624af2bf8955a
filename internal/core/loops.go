package core

import (
	"strings"

	"github.com/caddy-egress/egress/internal/failure"
)

// This file contains what is looked at before a request goes on to another proxy.

// loops reports whether the request has passed through this handler before: it says so
// itself, or it has come over a connection that this process has dialed.
func (t *Request) loops() bool {
	if d := t.Proxy.Direct; d != nil && d.Self.IsOwnDial(t.HTTP) {
		return true
	}
	for _, v := range t.HTTP.Header["Via"] {
		if strings.Contains(v, t.Proxy.Via.token) {
			return true
		}
	}
	return false
}

// maxVia bounds the Via fields of a request. They go on to upstreams with CONNECT, and it
// must not be the client who decides how large a head an upstream has to take.
const maxVia = 2 << 10

// CheckVia refuses a request that comes back to this handler, or that has passed through
// too many others, or says so.
func (t *Request) CheckVia() error {
	if t.loops() {
		return failure.Loop
	}
	n := 0
	for _, v := range t.HTTP.Header["Via"] {
		n += len("Via: \r\n") + len(v)
	}
	if n > maxVia {
		return failure.Via
	}
	return nil
}
