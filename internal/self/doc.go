// Package self recognises what would lead back to this process: addresses and unix sockets
// on which it listens itself, before they are dialed, and connections that it has dialed
// itself, at the server's end.
//
// It knows what listens and what was dialed, and nothing of why. It imports target and
// listening.
package self
