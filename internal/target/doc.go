// Package target parses the destination a request names into one canonical
// form, so that no spelling of a host or a port gets around a rule: whatever
// compares, resolves, dials or logs a destination works on a [Target], never
// on what the client wrote.
//
// A host that any common resolver would take as an IPv4 address (decimal,
// octal, hexadecimal and short forms, full-width digits) becomes that address;
// every other host becomes a lower-case ASCII name without a trailing dot.
// What has no single meaning is refused instead of guessed.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package target
