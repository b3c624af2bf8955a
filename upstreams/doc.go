// Package upstreams is the configuration of upstream proxies and their groups: the fields in
// JSON, the words in a Caddyfile, what of them goes together, and what they mean for the
// groups that are made of them.
//
// It knows neither the handler nor its requests: groups live in internal/upstream.
package upstreams
