package egress

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Tunnels outlive the configuration that they began under, for days perhaps. They may
// not keep its handler in memory, and with that the whole configuration.
func TestReload_TunnelsHoldNoHandler(t *testing.T) {
	for name, route := range map[string]string{
		"direct":           "",
		"through upstream": `,"routes":[{"to":"parents"}],"groups":{"parents":{"upstreams":[{"url":"http://%s"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := startLive(t)
			config := func(name string) []byte {
				fields := route
				if route != "" {
					fields = fmt.Sprintf(route, s.origin)
				}
				return liveConfig(liveServer(s.addr, fmt.Sprintf(`{"handler":"egress","name":"edge","server_name":%q,`+
					`"allow_unauthenticated":true,"acl":[{"allow":true,"subjects":["127.0.0.0/8"]}]%s}`, name, fields)))
			}
			if err := caddy.Load(config("first"), true); err != nil {
				t.Fatal(err)
			}
			tunnel := s.open()
			collected := make(chan struct{})
			runtime.AddCleanup(servingHandlers()[0], func(c chan struct{}) { close(c) }, collected)
			if err := caddy.Load(config("second"), true); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				runtime.GC()
				select {
				case <-collected:
				default:
					if time.Now().After(end) {
						t.Fatal("the handler is still in memory")
					}
					continue
				}
				break
			}
			s.tunnel = tunnel
			s.ping()
		})
	}
}

// open opens one more tunnel to the origin.
func (s *liveSite) open() net.Conn {
	s.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.origin, s.origin)
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != 200 {
		s.Fatal(resp, err)
	}
	return c
}
