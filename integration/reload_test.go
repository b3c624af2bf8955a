package integration

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// A reload with another configuration leaves exchanges and tunnels that are
// under way as they are; what comes next gets the new one. Idle connections
// stay where the transport stays, and go where it changes.
func TestReload_KeepsWhatIsUnderWay(t *testing.T) {
	for _, change := range []string{"names", "transport"} {
		t.Run(change, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				plain, secure, storage := freeAddr(t), freeAddr(t), t.TempDir()
				logs := newLogCapture(t)
				cert, key := proxyCertFiles(t)
				config := func(generation string) string {
					site := "egress {\n" + usual
					if generation == "new" {
						site += "server_name fresh\n"
						if change == "transport" {
							site += "transport {\n max_conns_per_host 7\n}\n"
						}
					}
					site += "}\n"
					if m.access {
						site = "log\n" + site
					}
					return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n %s}\nhttps://:%s {\n bind 127.0.0.1\n tls %s %s\n %s}\n",
						globals{grace: "2s", storage: storage, more: logs.asDefault("level DEBUG")}, port(plain), site, port(secure), cert, key, site)
				}
				load(t, config("old"))
				p := &proxy{mode: m, plain: plain, secure: secure, logs: logs}

				release := newGate()
				t.Cleanup(release.open)
				arrived := make(chan struct{}, 64)
				origin := newRawOrigin(t, func(oc *originConn) {
					for {
						r := oc.request()
						switch r.target {
						case "/head": // before the head
							arrived <- struct{}{}
							oc.hold(release.c)
							oc.ok("late")
						case "/body": // within the body
							oc.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
							arrived <- struct{}{}
							oc.hold(release.c)
							oc.send("world")
						default:
							oc.ok(strings.Join(r.fields("Via"), ""))
						}
					}
				})
				echo := newEchoOrigin(t)

				p.client(t, "h1").get(t, origin.url("/")) // a connection to be kept
				exchanges := map[string]<-chan answer{}
				tunnels := map[string]*tunnel{}
				for _, kind := range clientKinds {
					for _, path := range []string{"/head", "/body"} {
						c := p.client(t, kind)
						exchanges[kind+" "+path] = c.goTry(c.newRequest(t, "GET", origin.url(path), nil))
						await(t, arrived, "the request of "+kind)
					}
					tunnels[kind] = p.client(t, kind).open(t, echo.addr)
					write(t, tunnels[kind], "ping")
					readN(t, tunnels[kind], 4)
				}

				if err := tryLoad(t, config("new")); err != nil {
					t.Fatal(err)
				}

				for kind, tun := range tunnels {
					write(t, tun, "pong")
					if got := readN(t, tun, 4); got != "pong" {
						t.Errorf("tunnel of %s: %q", kind, got)
					}
				}
				before := origin.count()
				resp := p.getAfterReload(t, origin.url("/"))
				if !strings.HasPrefix(resp.body, "1.1 fresh") {
					t.Errorf("after the reload: %d %q", resp.StatusCode, resp.body)
				}
				if dialed := origin.count() - before; change == "transport" && dialed != 1 {
					t.Errorf("the new transport dialed %d times, want once", dialed)
				}
				release.open()
				for name, a := range exchanges {
					want := "late"
					if strings.HasSuffix(name, "/body") {
						want = "helloworld"
					}
					await(t, a, "the response of "+name).must(t).expect(t, 200, want)
				}
				for kind, tun := range tunnels {
					if err := tun.CloseWrite(); err != nil {
						t.Errorf("tunnel of %s: %v", kind, err)
					}
					if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
						t.Errorf("tunnel of %s ended with %q, %v", kind, rest, err)
					}
				}
				if m.access {
					for _, l := range []logLine{logs.access(t, "CONNECT", echo.addr), logs.access(t, "GET", origin.addr)} {
						if l.num("status") != 200 {
							t.Errorf("logged as %v", l)
						}
					}
					want := len(tunnels)
					logs.wait(t, "a line for each tunnel", func(logLine) bool {
						return len(logs.accessLines(func(l logLine) bool { return l.str("request.host") == echo.addr })) >= want
					})
				}
			})
		})
	}
}

// With an unchanged transport the idle connections outlive the reload.
func TestReload_KeepsIdleConnections(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		addr, storage := freeAddr(t), t.TempDir()
		logs := newLogCapture(t)
		config := func(extra string) string {
			return fmt.Sprintf("%s\nhttp://:%s {\n bind 127.0.0.1\n egress {\n%s%s}\n}\n",
				globals{grace: "2s", storage: storage, more: logs.asDefault()}, port(addr), usual, extra)
		}
		load(t, config(""))
		p := &proxy{mode: m, plain: addr, logs: logs}
		ended := make(chan struct{}, 4)
		origin := newRawOrigin(t, func(oc *originConn) {
			defer func() { ended <- struct{}{} }()
			for {
				oc.request()
				oc.ok("ok")
			}
		})
		p.getAfterReload(t, origin.url("/")).expect(t, 200, "ok")
		if err := tryLoad(t, config("server_name other\n")); err != nil {
			t.Fatal(err)
		}
		p.getAfterReload(t, origin.url("/")).expect(t, 200, "ok")
		if n := origin.count(); n != 1 {
			t.Errorf("%d connections, want the one from before the reload", n)
		}
		// What is denied now is not reached over a connection from before.
		if err := tryLoad(t, config("ports 1\n")); err != nil {
			t.Fatal(err)
		}
		expectError(t, p.getAfterReload(t, origin.url("/")).Response, 403, "http_request_denied")
		// Another transport: the idle connection goes.
		if err := tryLoad(t, config("transport {\n max_conns_per_host 7\n}\n")); err != nil {
			t.Fatal(err)
		}
		await(t, ended, "the end of the idle connection")
		p.getAfterReload(t, origin.url("/")).expect(t, 200, "ok")
		if n := origin.count(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// A configuration that is refused leaves the running one alone.
func TestReload_BadConfiguration(t *testing.T) {
	checkLeaks(t)
	p := startUsual(t, mode{"plain", false})
	origin, _ := recorder(t, okResponse)
	c := p.client(t, "h1")
	c.get(t, origin.url("/")).expect(t, 200, "ok")
	for _, bad := range []string{
		`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{"x":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"egress","server_name":"1 2"}]}]}}}}}`,
		`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{"x":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"egress","transport":{"max_conns":-2}}]}]}}}}}`,
		`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{"x":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"egress","auth":{}}]}]}}}}}`,
	} {
		if err := caddy.Load([]byte(bad), true); err == nil {
			t.Errorf("accepted: %s", bad)
		}
		p.getAfterReload(t, origin.url("/")).expect(t, 200, "ok")
	}
	if n := origin.count(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// getAfterReload is a GET by a client of its own: connections of another one may still
// be the old server's.
func (p *proxy) getAfterReload(t *testing.T, url string) *response {
	t.Helper()
	return p.client(t, "h1").get(t, url)
}
