package upstream

// Use is what a request is to a proxy.
type Use uint8

// Uses.
const (
	NotOurs  Use = iota // for the site behind the proxy
	Exchange            // to be forwarded
	Tunnel              // CONNECT
	Upgrade             // an exchange that asks to become a tunnel: it needs a place for both
)
