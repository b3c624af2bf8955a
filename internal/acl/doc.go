// Package acl decides which destinations may be reached: by their names, by each address
// that they lead to, and by port.
//
// subject.go parses what rules name, file.go reads files of it, build.go makes a list of
// it and rules.go replaces the list when a file changes. ports.go holds port ranges,
// special.go the addresses that are denied by default, why.go the words for what was
// decided.
//
// It knows destinations and addresses, and nothing of who asks, how they are reached, or
// Caddy.
package acl
