// Package sse writes server-sent events to clients that may be slow, or gone.
//
// It must never import anything above an engine, nor Caddy.
package sse
