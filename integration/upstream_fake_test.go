package integration

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// fakeUpstream is an HTTP proxy that plays a script.
type fakeUpstream struct {
	*rawOrigin
	heads atomic.Int64 // request heads that it was sent
}

// newFakeUpstream starts a proxy that answers each request as reply says, and closes
// the connection where that returns false.
func newFakeUpstream(t *testing.T, reply func(oc *originConn, r *originRequest) bool) *fakeUpstream {
	t.Helper()
	u := new(fakeUpstream)
	u.rawOrigin = newRawOrigin(t, func(oc *originConn) {
		for {
			r := oc.request()
			u.heads.Add(1)
			if !reply(oc, r) {
				return
			}
		}
	})
	return u
}

// newForwarder starts a proxy that works: it answers exchanges itself, and opens
// tunnels to 127.0.0.1.
func newForwarder(t *testing.T, body string) *fakeUpstream {
	return newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if r.method == "CONNECT" {
			tunnelTo(oc, r.target, "HTTP/1.1 200 OK\r\n\r\n")
			return false
		}
		if r.method == "HEAD" {
			oc.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)))
		} else {
			oc.ok(body)
		}
		return true
	})
}

// tunnelTo connects to a destination and moves bytes until either side ends.
func tunnelTo(oc *originConn, target, answer string) {
	far, err := net.Dial("tcp", target)
	if err != nil {
		oc.send("HTTP/1.1 502 Bad Gateway\r\nProxy-Status: fake; error=connection_refused\r\nContent-Length: 0\r\n\r\n")
		runtime.Goexit()
	}
	defer far.Close()
	oc.send(answer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, oc.br)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(oc.Conn, far)
	_ = oc.Conn.(interface{ CloseWrite() error }).CloseWrite()
	<-done
}

// group is the Caddyfile of the group `default`.
func group(options string, upstreams ...string) string {
	var b strings.Builder
	b.WriteString(usual + "upstreams default {\n")
	for _, u := range upstreams {
		if !strings.Contains(u, "://") {
			u = "http://" + u
		}
		fmt.Fprintf(&b, "upstream %s\n", u)
	}
	b.WriteString(options + "\n}\n")
	return b.String()
}

// inUse waits until a proxy has been asked for n tunnels or exchanges.
func (u *fakeUpstream) asked() int { return int(u.heads.Load()) }

// egressLine waits for the access-log line of a URI.
func (p *proxy) egressLine(t *testing.T, uri string) logLine {
	t.Helper()
	return p.logs.wait(t, "access log of "+uri, func(l logLine) bool {
		return l.isAccess() && strings.HasSuffix(l.str("request.uri"), uri)
	})
}
