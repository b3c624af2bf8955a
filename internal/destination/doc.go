// Package destination is the passive health of destinations: a circuit for each that fails
// on a path, directly or through a group, and there for each member that it fails through.
//
// charge.go has what a request tells of its attempts, circuits.go what follows.
//
// It knows destinations, failures and the numbers of members, and nothing of how they are
// reached, or of Caddy.
package destination
