// Package upstream is one upstream proxy and a group of them: where it is, what it is
// told, what an answer or a failure says about it and what about the destination, which
// member a request takes, and how members come and go.
//
// It knows no request and no client but by the values that it is given. It must never
// import what serves a door, nor Caddy, but for internal/shared, which keeps the state of
// an upstream over reloads, and selection, whose policies choose.
package upstream
