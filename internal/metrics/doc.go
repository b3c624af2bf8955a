// Package metrics turns what handlers report, and what their requests come to, into
// Prometheus metrics.
//
// Caddy makes a new registry for each configuration. What is counted lives in a Recorder,
// which outlives configurations as long as a handler stands at the same place, and what is
// measured at a moment is read from reports when somebody scrapes. So a reload resets
// nothing.
//
// It knows outcomes and reports, and Prometheus. It must never import Caddy's handlers or
// look at the private state of anything.
package metrics
