// Package explain tells what would become of a request: the rule, the ways out, addresses,
// upstreams and limits, as values and as text.
//
// It asks the same code that serves requests, and takes nothing of it. It must never
// decide anything itself, nor import Caddy.
package explain
