// Package reach is how the settings of a configuration say over which way something is
// reached: from which addresses of this machine, by which interface, at which family of
// addresses, and with which TLS. Origins, routes and upstreams say it with the same words.
//
// It knows Caddy's dispenser and the TLS settings of reverse_proxy, and neither handler nor
// upstreams.
package reach
