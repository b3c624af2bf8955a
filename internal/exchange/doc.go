// Package exchange forwards one request to its origin and brings back the response: fields,
// upload, informational responses, trailers, and connections that are a client's own. RFC
// 9110 and RFC 9112 are its subject.
//
// It knows the writer of the response and the request behind it (internal/core). It must
// never import what explains or configures, nor Caddy.
package exchange
