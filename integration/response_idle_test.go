package integration

import (
	"net/http"
	"strings"
	"testing"
)

// An origin that falls silent within a response keeps no connection for ever, and its client
// sees a response that is broken.
func TestExchange_SilentOrigin(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		p := start(t, mode{name: "plain"}, setup{egress: usual + "transport {\n response_idle_timeout 300ms\n max_conns_per_host 1\n}\n"})
		over := make(chan struct{})
		origin := newRawOrigin(t, func(oc *originConn) {
			if strings.Contains(oc.head(), "/silent") {
				oc.send("HTTP/1.1 200 OK\r\n" + framing)
				oc.hold(over)
				return
			}
			oc.ok("well")
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			if resp, err := c.try(c.newRequest(t, http.MethodGet, origin.url("/silent"), nil)); err == nil && resp.bodyErr == nil {
				t.Errorf("got %d %q, want a broken response", resp.StatusCode, resp.body)
			}
			c.get(t, origin.url("/")).expect(t, http.StatusOK, "well")
		})
		close(over)
	}
}
