// Package tunnels is the book of the tunnels of one handler: how many there are, of whom,
// what they may carry together, and when they have to end.
//
// book.go has the counts and use.go who holds them, slot.go what one tunnel takes, rate.go
// what users share, list.go the tunnels that stand, policy.go how those end that changed
// rules forbid, deadline.go how they end when their handler is gone or the process exits.
//
// A book outlives configurations, and tunnels keep it for days: nothing here may hold
// anything of one but a policy that has entered and not left. The package knows relays and
// destinations, and nothing of how a tunnel is opened, of requests, or of Caddy.
package tunnels
