// Package holdings counts what each of many holders holds of something scarce
// (connections, tunnels), so that one holder cannot take it all.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package holdings
