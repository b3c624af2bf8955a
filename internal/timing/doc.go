// Package timing tells what the time of a connection was taken by: a Clock travels in the
// context of who wants to know, and those that do the work tell it.
//
// It knows parts of time, and nothing of what takes them. It must never import anything above
// an engine, nor Caddy.
package timing
