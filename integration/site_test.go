package integration

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// site is what may stand beside egress: everything of it acts on what is not
// ours, and on nothing else.
func site(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "index.html", []byte("the site"))
	writeFile(t, dir, "big.txt", []byte(strings.Repeat("text ", 2000)))
	return fmt.Sprintf(`header X-Site yes
	header -Server
	encode gzip
	redir /old /new 301
	root %s
	handle /api/* {
		respond "api"
	}
	file_server
`, dir)
}

// An extended CONNECT (RFC 9220) is for the handlers behind egress. Where there are none, Caddy's
// empty 200 would tell the client that its tunnel stands.
func TestSite_ExtendedConnect_RFC9220_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for _, tc := range []struct {
			egress, behind string
			status         int
		}{
			{usual, "", http.StatusNotImplemented},
			{"basic_auth alice secret\n", "", http.StatusNotImplemented},
			{usual, "route {\n respond 418\n}", http.StatusTeapot},
			{usual, "route {\n error 404\n}", http.StatusNotFound},
		} {
			p := start(t, m, setup{egress: tc.egress, site: tc.behind})
			c := p.client(t, "h3")
			str, err := c.h3.OpenRequestStream(c.ctx)
			if err != nil {
				t.Fatal(err)
			}
			r := connectRequest(c.ctx, "other.test", nil)
			r.Proto, r.URL = "websocket", &url.URL{Scheme: "https", Host: "other.test", Path: "/chat"}
			if err := str.SendRequestHeader(r); err != nil {
				t.Fatal(err)
			}
			resp, err := str.ReadResponse()
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tc.status {
				t.Errorf("with %q and %q behind: %d", tc.egress, tc.behind, resp.StatusCode)
			}
			_ = str.Close()
		}
	})
}

// Origin-form requests reach the site, requests to the proxy pass it by.
func TestSite_Beside(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{site: site(t)})
		origin, saw := recorder(t, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n"+strings.Repeat("x", 5000))
		echo := newEchoOrigin(t)
		for _, kind := range clientKinds {
			t.Run("site "+kind, func(t *testing.T) {
				for path, want := range map[string]string{"/": "the site", "/api/x": "api", "/old": ""} {
					resp := p.siteGet(t, kind, path)
					if resp.Header.Get("X-Site") != "yes" || !strings.HasPrefix(resp.body, want) {
						t.Errorf("%s: %d %q %v", path, resp.StatusCode, resp.body, resp.Header)
					}
					if path == "/old" && resp.StatusCode != 301 {
						t.Errorf("%s: status %d", path, resp.StatusCode)
					}
				}
			})
		}
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, path := range []string{"/old", "/api/x", "/index.html"} {
				r := c.newRequest(t, "GET", origin.url(path), nil)
				r.Header.Set("Accept-Encoding", "gzip")
				resp := c.do(t, r)
				if resp.StatusCode != 200 || resp.Header.Get("X-Site") != "" || resp.Header.Get("Content-Encoding") != "" || len(resp.body) != 5000 {
					t.Errorf("%s: the site touched %d %v", path, resp.StatusCode, resp.Header)
				}
				if got := await(t, saw, "the request").target; got != path {
					t.Errorf("%s became %s", path, got)
				}
			}
			resp, tun := c.connect(t, echo.addr, "", nil)
			if resp.StatusCode != 200 || resp.Header.Get("X-Site") != "" {
				t.Errorf("CONNECT: %d %v", resp.StatusCode, resp.Header)
			}
			alive(t, tun, "the tunnel")
			tun.Close()
			refused, tun := c.connect(t, "10.0.0.1:443", "", nil)
			if refused.Header.Get("X-Site") != "" {
				t.Errorf("the site touched our error: %v", refused.Header)
			}
			tun.Close()
		})
	})
}

// hosts names the site: a request in absolute form for it is the site's.
func TestSite_OwnHostInAbsoluteForm(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{site: site(t)})
		for _, host := range []string{"proxy.test", "PROXY.test", "proxy.test:" + port(p.plain), "proxy.test."} {
			raw := p.dialPlain(t)
			resp := raw.roundTrip("GET", "GET http://"+host+"/api/x HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			if resp.StatusCode != 200 || resp.body != "api" || resp.Header.Get("X-Site") != "yes" {
				t.Errorf("%s: %d %q %v", host, resp.StatusCode, resp.body, resp.Header)
			}
		}
	})
}

// Platform trap 10, pinned as Caddy's behaviour: on a site bound to a host
// name a CONNECT to another authority never reaches any handler, and Caddy's
// answer is an empty 200. The catch-all form beside it works.
func TestSite_HostMatcherSwallowsConnect_Trap10(t *testing.T) {
	for _, tc := range []struct {
		name, address string // %s is the port
		works         bool
	}{
		{"host and port", "http://proxy.test:%s", false},
		{"loopback address", "http://127.0.0.1:%s", false},
		{"port", "http://:%s", true},
		{"port and host", "http://:%s, http://proxy.test:%[1]s", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			logs := newLogCapture(t)
			addr := freeAddr(t)
			load(t, fmt.Sprintf(`%s
%s {
	bind 127.0.0.1
	egress {
		%s
	}
}
`, globals{grace: "2s", storage: t.TempDir(), more: logs.asDefault()}, fmt.Sprintf(tc.address, port(addr)), usual))
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.send("origin")
				_ = oc.awaitEnd()
			})
			target := origin.addr
			if !tc.works {
				target = "other.example:443"
			}
			raw := dialRaw(t, addr, nil)
			raw.send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
			head := raw.head()
			if !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Fatalf("head %q", head)
			}
			if !tc.works {
				if got := headFields(head, "Content-Length"); len(got) != 1 || got[0] != "0" {
					t.Errorf("Caddy's answer has changed: %q", head)
				}
				return
			}
			if got := readN(t, raw, 6); got != "origin" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// siteGet asks the site itself, as its visitors do.
func (p *proxy) siteGet(t *testing.T, kind, path string) *response {
	t.Helper()
	if kind == "h1" || kind == "h1tls" {
		raw := p.dialH1(t, kind)
		raw.send("GET " + path + " HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(raw), nil)
		if err != nil {
			t.Fatal(err)
		}
		return readAll(resp)
	}
	c := p.client(t, kind)
	return c.get(t, "https://proxy.test:"+port(p.secure)+path)
}

// Caddy's handle_errors is not run for our failures, whose status, fields and sentence
// belong together. It still is for those of the site.
func TestSite_HandleErrorsIsForTheSite(t *testing.T) {
	p := start(t, mode{}, setup{
		egress: usual + "ports 80 443\n",
		site:   "error /broken 500\nhandle_errors {\n respond \"our own page {err.status_code}\"\n}\n",
	})
	if resp := p.siteGet(t, "h1", "/broken"); resp.StatusCode != 500 || resp.body != "our own page 500" {
		t.Errorf("an error of the site: %d %q", resp.StatusCode, resp.body)
	}
	eachClient(t, p, func(t *testing.T, c *client) {
		resp := c.get(t, "http://name.test:8080/")
		expectError(t, resp.Response, 403, "http_request_denied")
		if resp.body != "name.test:8080: destination is not allowed\n" {
			t.Errorf("the client of an exchange reads %q", resp.body)
		}
		refused, tun := c.connect(t, "name.test:8080", "", nil)
		tun.Close()
		expectError(t, refused, 403, "http_request_denied")
	})
}
