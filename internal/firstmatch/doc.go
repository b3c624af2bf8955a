// Package firstmatch finds, of a long ordered list of rules, the first one that
// matches a name or an address: among a million rules in the time of a few
// look-ups in memory, without allocating. It knows rules by their position in the
// list only.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package firstmatch
