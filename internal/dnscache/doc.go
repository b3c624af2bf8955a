// Package dnscache resolves names to addresses and remembers the answers for
// as long as they may be remembered.
//
// A [Cache] answers from, in this order: static entries, the hosts file, what it
// remembers, and its [Backend]: the resolver of the system, or DNS servers
// (see [NewClient]). Names are absolute: no search domain is ever appended.
//
// IPv4 and IPv6 addresses of a name are asked for, remembered and handed out
// apart from each other, so that a caller may begin with those that are there
// first (RFC 8305 §3). However many ask for a name at the same time, it is
// asked for once.
//
// Addresses are handed out as they were received. Whether they may be dialed is
// for the caller to decide, anew each time it gets them.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package dnscache
