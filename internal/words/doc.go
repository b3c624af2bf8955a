// Package words reads the words of a Caddyfile: each with its own errors, which name the
// word and its place.
//
// It knows Caddy's dispenser and no setting of ours. Of this project it imports only
// plaintext.
package words
