package proxydial

import "testing"

// TestEvident: what shows that an answer to an exchange is the proxy's own.
func TestEvident(t *testing.T) {
	const failed = "cdn.example; error=connection_limit_reached"
	for _, tc := range []struct {
		name string
		r    Reply
		want bool
	}{
		{"nothing", Reply{Status: 503}, false},
		{"empty", Reply{Status: 503, BodyLess: true}, false},
		{"empty, Retry-After", Reply{Status: 503, BodyLess: true, RetryAfter: "120"}, false},
		{"Squid", Reply{Status: 503, SquidError: "ERR_CONNECT_FAIL 111", Via: "1.1 squid (squid/6.1)"}, true},
		{"Proxy-Status", Reply{Status: 503, ProxyStatus: failed}, true},
		{"Proxy-Status without an error", Reply{Status: 503, ProxyStatus: "parent; received-status=503"}, false},
		{"of another one behind a Via", Reply{Status: 503, ProxyStatus: failed, Via: "1.1 parent (squid/6.1)"}, false},
		{"of another one, relayed", Reply{Status: 503, ProxyStatus: failed + ", parent; received-status=503", Via: "1.1 parent"}, false},
		{"of one before the nearest", Reply{Status: 503, ProxyStatus: failed, Via: "1.1 cdn.example, 1.1 parent"}, false},
		{"of the nearest", Reply{Status: 503, ProxyStatus: "parent; error=dns_error", Via: "1.1 parent"}, true},
		{"of the nearest, with a port", Reply{Status: 503, ProxyStatus: "parent.example; error=dns_error", Via: "1.0 other, HTTP/1.1 Parent.example:3128 (x)"}, true},
		{"of the nearest, in quotes", Reply{Status: 503, ProxyStatus: "\"parent.example:3128\"; error=dns_error", Via: "1.1 parent.example:3128"}, true},
		{"no Via to speak of", Reply{Status: 503, ProxyStatus: failed, Via: ","}, false},
		{"no Proxy-Status to speak of", Reply{Status: 503, ProxyStatus: "parent; error=", Via: "1.1 parent"}, false},
	} {
		if got := tc.r.Evident(); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
