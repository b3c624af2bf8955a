// Package pattern makes and checks the bodies of load tests. Every body is made of
// bytes that both ends know: an id that is different for each request, and behind
// it a pattern. A byte that is lost, doubled or out of place shows, and so does the
// answer to another request.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package pattern
