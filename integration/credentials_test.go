package integration

import (
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
)

// RFC 9110 §11.7.2: credentials for us are for nobody behind us: neither for the site,
// in whichever form it is asked, nor for what a route sends.
func TestAuth_CredentialsStay_RFC9110_11_7_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin, saw := recorder(t, okResponse)
		for _, tc := range []struct{ name, auth, plain string }{
			{"with users", fmt.Sprintf("basic_auth %s \"%s\"\n", theUser, thePassword), "<>"},
			{"without", "allow_unauthenticated\n", "<" + basic(theUser, thePassword) + ">"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				p := start(t, m, setup{
					egress: "hosts proxy.test\n" + tc.auth + openLoopback + "route {\n to direct\n header_up X-Saw <{http.request.header.Proxy-Authorization}>\n}\n",
					site:   "respond \"<{http.request.header.Proxy-Authorization}>\"\n",
				})
				field := "Proxy-Authorization: " + basic(theUser, thePassword) + "\r\n\r\n"
				resp := p.dialPlain(t).roundTrip("GET", "GET http://PROXY.test./ HTTP/1.1\r\nHost: x\r\n"+field)
				if resp.body != "<>" {
					t.Errorf("absolute form: the site sees %q", resp.body)
				}
				// Where nobody has to log in here, the credentials of another
				// request are perhaps for somebody behind us.
				resp = p.dialPlain(t).roundTrip("GET", "GET / HTTP/1.1\r\nHost: proxy.test\r\n"+field)
				if resp.body != tc.plain {
					t.Errorf("origin form: the site sees %q, want %q", resp.body, tc.plain)
				}
				eachClient(t, p, func(t *testing.T, c *client) {
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.Header.Set("Proxy-Authorization", basic(theUser, thePassword))
					c.do(t, r).expect(t, 200, "ok")
					if got := await(t, saw, "the request"); got.header.Get("X-Saw") != "<>" || got.header.Get("Proxy-Authorization") != "" {
						t.Errorf("the origin got %q", got.head)
					}
				})
			})
		}
	})
}

// A password in a request target is in no log, and a request with one goes nowhere.
func TestAccessLog_NoUserInformation(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{"logged", true}, setup{})
	for i, requestLine := range []string{
		"GET http://joe:topsecret@127.0.0.1/%d", "GET ftp://joe:topsecret@127.0.0.1/%d", "GET http://joe:topsecret@proxy.test/%d",
		"CONNECT joe:topsecret@127.0.0.%d:9",
	} {
		resp := p.dialPlain(t).roundTrip("POST", fmt.Sprintf(requestLine, i)+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp.StatusCode != 400 {
			t.Errorf("%s: status %d", requestLine, resp.StatusCode)
		}
		want := strings.Replace(fmt.Sprintf(requestLine, i), "joe:topsecret", "REDACTED", 1)
		line := p.logs.wait(t, want, func(l logLine) bool {
			return l.isAccess() && l.str("request.method")+" "+l.str("request.uri") == want
		})
		if line.at("status") != 400.0 || line.num("size") <= 0 || line.str("egress.reason") != "http_request_error" || line.str("level") != "info" {
			t.Errorf("logged as %v", line)
		}
	}
	c := p.client(t, "h2")
	if status, err := c.tryConnect("joe:topsecret@127.0.0.8:9"); err == nil && status != 400 {
		t.Errorf("h2: status %d", status)
	}
	c.get(t, "http://127.0.0.1:1/") // its line comes behind
	p.logs.access(t, "GET", "127.0.0.1:1")
	for _, secret := range []string{"topsecret", base64.StdEncoding.EncodeToString([]byte("joe:topsecret"))} {
		if strings.Contains(p.logs.all(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// A handler that rewrites requests before us changes nothing of where CONNECT leads.
func TestTunnel_Rewritten(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for directive, rewrite := range map[string]string{"uri": "uri replace /old /new", "rewrite": "rewrite * /other"} {
			p := start(t, m, setup{global: "order " + directive + " first\n", site: rewrite + "\n"})
			echo := newEchoOrigin(t)
			eachClient(t, p, func(t *testing.T, c *client) { closeTunnel(t, c.open(t, echo.addr)) })
		}
	})
}

// The PROXY protocol names the client as {client_ip} has it, behind another proxy too,
// and no two clients share a connection.
func TestUpstreamConnect_ProxyProtocolNamesTheClient(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			checkLeaks(t)
			saw := make(chan string, 10)
			up := newRawOrigin(t, func(oc *originConn) {
				h, err := proxyproto.Read(oc.br)
				if err != nil {
					oc.fail("no PROXY header: %v", err)
				}
				source, _, _ := net.SplitHostPort(h.SourceAddr.String())
				saw <- source
				for {
					oc.request()
					oc.ok("ok")
				}
			})
			p := start(t, mode{}, setup{
				servers: "trusted_proxies static 127.0.0.1/32\n",
				egress:  group("", "http://"+up.addr+" {\n proxy_protocol "+version+"\n}"),
			})
			for _, ip := range []string{"203.0.113.7", "2001:db8::7", "198.51.100.9"} {
				p.dialPlain(t).roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: "+ip+"\r\n\r\n")
				if got := await(t, saw, "the PROXY header"); got != ip {
					t.Errorf("%s arrived as %s", ip, got)
				}
			}
		})
	}
}

// A client that authenticates its connections to origins is held to its limit.
func TestPin_CountsForTheClient(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{access: true}, setup{egress: usual + "transport {\n max_per_client 1\n}\n"})
	release, arrived := newGate(), make(chan struct{}, 10)
	t.Cleanup(release.open)
	origin := newRawOrigin(t, func(oc *originConn) {
		for {
			if oc.request().target == "/slow" {
				arrived <- struct{}{}
				oc.hold(release.c)
			}
			oc.ok("ok")
		}
	})
	ask := func(c *rawConn, path string) {
		c.send("GET " + origin.url(path) + " HTTP/1.1\r\nHost: x\r\nAuthorization: Negotiate abc\r\n\r\n")
	}
	first, second := p.dialPlain(t), p.dialPlain(t)
	for _, c := range []*rawConn{first, second} { // each has a connection of its own then
		ask(c, "/")
		if resp := c.response("GET"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	ask(first, "/slow")
	await(t, arrived, "the first request")
	ask(second, "/slow")
	if resp := second.response("GET"); resp.StatusCode != 503 {
		t.Errorf("a second request at once: status %d", resp.StatusCode)
	}
	release.open()
	if resp := first.response("GET"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// Placeholders are replaced in whatever word they stand.
func TestPlaceholders_InWords(t *testing.T) {
	checkLeaks(t)
	t.Setenv("EGRESS_TEST_TOKEN", "token-value")
	t.Setenv("EGRESS_TEST_HOST", "proxy.test")
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		oc.ok(r.header.Get("X-Token"))
		return true
	})
	p := start(t, mode{}, setup{egress: "hosts {env.EGRESS_TEST_HOST}\nrealm \"{env.EGRESS_TEST_TOKEN}\"\n" +
		fmt.Sprintf("basic_auth %s \"%s\"\n", theUser, thePassword) +
		"upstream http://" + up.addr + " {\n header X-Token {env.EGRESS_TEST_TOKEN}\n}\n"})
	resp := p.dialPlain(t).roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := resp.Header.Get("Proxy-Authenticate"); !strings.Contains(got, `realm="token-value"`) {
		t.Errorf("challenge %q", got)
	}
	resp = p.dialPlain(t).roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: "+basic(theUser, thePassword)+"\r\n\r\n")
	if resp.body != "token-value" {
		t.Errorf("the upstream got %q", resp.body)
	}
	if resp := p.dialPlain(t).roundTrip("GET", "GET http://proxy.test/ HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("the site: status %d", resp.StatusCode)
	}
	err := tryLoad(t, p.config(t, setup{egress: "upstream http://" + up.addr + " {\n header X-Client {http.request.remote.host}\n}\n"}))
	if err == nil || !strings.Contains(err.Error(), "header.X-Client[0]: {http.request.remote.host} has no value when the configuration is loaded") {
		t.Errorf("a placeholder of requests: %v", err)
	}
}
