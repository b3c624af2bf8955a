package integration

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// This file contains a proxy at which everything happens that metrics tell of.

// busyProxy is that proxy, with where its requests go.
type busyProxy struct {
	*proxy
	client        *client
	login         http.Header
	origin, tls   string
	slow          *gate         // the first upstream of the group that hedges
	first, second chan struct{} // what is asked for under /first and /second ends then
}

func newBusyProxy(t *testing.T) *busyProxy {
	b := &busyProxy{slow: newGate(), first: make(chan struct{}), second: make(chan struct{})}
	b.login = http.Header{"Proxy-Authorization": {basic("u", "p")}}
	b.origin = newRawOrigin(t, func(oc *originConn) {
		for r := oc.request(); r != nil; r = oc.request() {
			switch {
			case strings.HasSuffix(r.target, "/first"):
				oc.hold(b.first)
			case strings.HasSuffix(r.target, "/second"):
				oc.hold(b.second)
			}
			oc.ok("ok")
		}
	}).addr
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	b.tls = strings.TrimPrefix(secure.URL, "https://")
	dns := dnstest.Start(t)
	dns.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
	slow := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		select {
		case <-b.slow.c:
			_ = oc.awaitEnd()
		default:
			tunnelTo(oc, r.target, "HTTP/1.1 200 OK\r\n\r\n")
		}
		return false
	})
	list := writeFile(t, t.TempDir(), "denied.txt", []byte("listed.example\n"))
	config := `
		basic_auth u p
		hosts proxy.test
		destination_circuit off
		acl {
			deny_file ` + list + `
			allow 127.0.0.0/8 ::1
		}
		transport {
			max_conns_per_host 1
			pending_timeout 5m
			resolvers ` + dns.Addr + `
		}
		tunnel {
			max_tunnels 3
		}
		upstreams checked {
			upstream http://` + refusedAddr(t) + `
			upstream http://` + newForwarder(t, "").addr + `
			health_check tcp
			health_interval 100ms
		}
		upstreams weak {
			upstream http://` + refusedAddr(t) + `
			upstream http://` + refusedAddr(t) + `
		}
		upstreams hedged {
			upstream http://` + slow.addr + `
			upstream http://` + newForwarder(t, "").addr + `
			lb_policy first
			hedge
			attempt_timeout 1m
		}
		route {
			match {
				host checked.test
			}
			to checked
		}
		route {
			match {
				host weak.test
			}
			to weak
		}
		route {
			match {
				method CONNECT
			}
			to hedged
		}
		route direct
	`
	b.proxy = start(t, mode{}, measured(config))
	b.reload(t, measured(config+"\n"))
	b.client = b.proxy.client(t, "h1")
	t.Cleanup(func() { close(b.second) })
	return b
}

// get makes a request, whatever comes of it.
func (b *busyProxy) get(t *testing.T, url string) {
	t.Helper()
	b.client.do(t, b.request(t, url))
}

func (b *busyProxy) request(t *testing.T, url string) *http.Request {
	r := b.client.newRequest(t, http.MethodGet, url, nil)
	r.Header.Set("Proxy-Authorization", b.login.Get("Proxy-Authorization"))
	return r
}

// keepBusy brings about all that there is to count, and leaves requests and tunnels under
// way.
func (b *busyProxy) keepBusy(t *testing.T) {
	t.Helper()
	_, port, _ := strings.Cut(b.origin, ":")
	for range 3 {
		b.get(t, "http://"+b.origin+"/")
		b.get(t, "http://origin.test:"+port+"/")
		b.get(t, "http://none.test/")
		b.get(t, "http://"+refusedAddr(t)+"/")
		b.get(t, "http://10.0.0.1/")
		b.get(t, "http://listed.example/")
		b.get(t, "http://checked.test/")
		b.proxy.dialPlain(t).roundTrip("GET", "GET https://"+b.tls+"/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: "+b.login.Get("Proxy-Authorization")+"\r\n\r\n")
	}
	for range 12 {
		b.get(t, "http://weak.test/")
	}
	b.tunnels(t)
	// One exchange has the only connection to its origin, and another one waits for it:
	// once until it gets it, and once for good.
	for _, path := range []string{"/first", "/second"} {
		for range 2 {
			b.client.goTry(b.request(t, "http://"+b.origin+path))
		}
		b.untilMeasured(t, map[string]float64{`pool_waiting{group="",path="direct"}`: 2}) // as both handlers see it
		if path == "/first" {
			close(b.first)
			b.untilMeasured(t, map[string]float64{`pool_waiting{group="",path="direct"}`: 0})
		}
	}
}

// tunnels opens some that end, some beside those that are slow, and some that stand, until
// there are too many.
func (b *busyProxy) tunnels(t *testing.T) {
	t.Helper()
	echo := newEchoOrigin(t)
	open := func() (*tunnel, int) {
		resp, tun := b.client.connect(t, echo.addr, "", b.login)
		return tun, resp.StatusCode
	}
	for deadline, opened := time.Now().Add(patience), 0; opened < 30; {
		if opened == 25 {
			b.slow.open()
		}
		if tun, status := open(); status == http.StatusOK {
			opened++
			closeTunnel(t, tun)
		}
		if time.Now().After(deadline) {
			t.Fatal("tunnels cannot be opened")
		}
	}
	for {
		tun, status := open()
		if status != http.StatusOK {
			return
		}
		t.Cleanup(func() { tun.Close() })
	}
}
