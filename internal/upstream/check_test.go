package upstream

import (
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

// A check by http hears the final response, not an informational one before it.
func TestCheckHearsTheFinalResponse(t *testing.T) {
	for answer, healthy := range map[string]bool{
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": true,
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n":                                              false,
		"HTTP/1.1 103 Early Hints\r\n\r\n":                                              false,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n": false,
	} {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Read(make([]byte, 4096))
			_, _ = io.WriteString(far, answer)
			far.Close()
		}()
		checks := &Checks{ExpectStatus: 2}
		to := &CheckTarget{URL: &url.URL{Scheme: "http", Host: "check.test", Path: "/"}, Dest: target.Target{Host: "check.test", Port: 80}}
		m := &Member{Spec: new(Spec), Group: new(Group)}
		if err := checks.get(t.Context(), near, to, m); (err == nil) != healthy {
			t.Errorf("%q: %v", answer, err)
		}
		near.Close()
	}
}
