// Package status is the page that shows operators how the proxy is: the handler
// `egress_status` of Caddy. It shows what the admin API tells, live, and changes nothing.
//
// It belongs to the desks: it asks package admin, and the counters of internal/metrics. It
// must never reach into what these tell of.
package status
