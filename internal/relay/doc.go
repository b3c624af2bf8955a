// Package relay moves the bytes of a tunnel between two streams, both ways,
// until both have ended or something cuts it short.
//
// What it cares about, in this order:
//
//   - nothing is lost, duplicated or reordered, and the counts are exact;
//   - an orderly end stays an orderly end (half-close, RFC 9293 section 3.6)
//     and a reset stays a reset, so that no peer takes a cut for the end;
//   - a quiet tunnel costs two small goroutines and its two sockets: no
//     buffer, no pipe, no timer per direction, no deadline per byte;
//   - bulk between two TCP sockets is moved by the kernel (splice(2)).
//
// The package knows nothing of HTTP, of proxies or of Caddy.
//
// It is an engine: of this project it imports layers alone, and nothing of Caddy.
package relay
