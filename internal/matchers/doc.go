// Package matchers is what is made of Caddy's matchers beyond asking them about a request:
// whether a pattern can match at all, what may be told of their settings, what is known of
// them and a request of which little is known, and the failure that one says itself.
//
// It knows Caddy, targets and what a tunnel was asked for. It must never import what serves
// requests.
package matchers
