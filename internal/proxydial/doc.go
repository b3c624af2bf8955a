// Package proxydial speaks to one upstream proxy: it asks for tunnels to
// destinations with HTTP/1.1 CONNECT, HTTP/2 CONNECT or SOCKS5, and hands out
// connections to the proxy itself for exchanges in absolute form.
//
// It resolves nothing and dials nothing: the caller gives a function that
// connects to the proxy, and the address of the destination where the proxy
// wants one.
//
// Over TLS, a proxy that speaks HTTP/2 gets many tunnels on few connections. A
// PROXY protocol header names one client per connection, and so rules out what
// is not made for one client alone: with it, every tunnel has a connection of
// its own with HTTP/1.1, and none is dialed ahead.
//
// It is an engine: of this project it imports layers, and of h1 how heads are written, and
// nothing of Caddy.
package proxydial
