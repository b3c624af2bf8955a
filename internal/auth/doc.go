// Package auth decides who may use the proxy: it reads the credentials of a request, finds
// the user and the session that they name, and checks the password.
//
// users.go has the users and their login, parse.go the reading of Proxy-Authorization,
// credential.go a user as the check needs it. hash.go reads the hashes of passwords,
// classes.go makes all failures cost the same slow work, verify.go keeps that work from
// being done twice, and queue.go lets clients take turns at it.
//
// It knows users, passwords and the addresses of clients, and nothing of requests,
// connections, Caddy, or of what a user may do. It imports failure and plaintext.
package auth
