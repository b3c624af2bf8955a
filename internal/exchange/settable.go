package exchange

import "net/http"

// Settable reports whether the operator may set a field of requests: not what
// frames messages, and not what this handler writes itself.
func Settable(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Content-Length", "Host", "Proxy-Authorization", "Expect", "Max-Forwards", "Trailer", EarlyData:
		return false
	}
	return !hopByHop(name)
}
