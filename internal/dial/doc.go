// Package dial is the one door through which connections leave: from a name to addresses
// that were checked, and to a connection.
//
// names.go finds the addresses, candidates.go checks and orders them, race.go tries them,
// source.go says where from, sessions.go which TLS sessions go along, judge.go what would
// be done. lookup.go is for those who only
// need addresses.
//
// It knows destinations and the access rules, and nothing of who asks, of circuits, of
// upstream proxies but their addresses, or of Caddy.
package dial
