// Package origin keeps the connections to origins: the pool of idle ones, those that are
// pinned to a client because they have authenticated themselves, and what one client may
// hold of them.
//
// It knows what connections are told apart by. It must never import the ways through an
// upstream proxy, nor Caddy, but for internal/shared, which keeps a pool over reloads.
package origin
