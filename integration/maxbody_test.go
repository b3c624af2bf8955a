package integration

import (
	"strings"
	"sync"
	"testing"
)

// Where nothing of Caddy's is between request_body and net/http, the reader that
// finds a body too large writes to the response header itself. The answer of the
// origin may be on its way into the same header.
func TestUpload_MaxSizeRacesWithAnswer(t *testing.T) {
	p := start(t, mode{name: "plain"}, setup{
		global:  "order egress after request_body",
		site:    "request_body {\n max_size 1000\n}\n",
		servers: "timeouts {\n read_body_idle -1s\n write_idle -1s\n}\n",
	})
	origin := newRawOrigin(t, func(oc *originConn) {
		for {
			oc.head()
			oc.send("HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Field: value\r\n", 50) + "Content-Length: 2\r\n\r\nok")
			_ = oc.awaitEnd()
		}
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				raw := p.dialPlain(t)
				raw.trySend("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
				raw.trySend("7d0\r\n" + strings.Repeat("x", 2000) + "\r\n0\r\n\r\n")
				if resp := raw.response("POST"); resp.StatusCode != 200 && resp.StatusCode != 413 {
					t.Errorf("got %d", resp.StatusCode)
				}
				raw.Close()
			}
		})
	}
	wg.Wait()
}
