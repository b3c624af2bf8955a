// Package events is a queue of events of one configuration: they wait until it runs, are
// emitted in order, and whoever takes them may hang.
//
// It knows those that take them by the interface Sink. It must never import anything above
// an engine, nor Caddy.
package events
