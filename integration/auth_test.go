package integration

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const (
	theUser     = "ada"
	thePassword = "correct horse:battery"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// withAuth is a proxy with one user, by password or by hash.
func withAuth(t *testing.T, m mode, hashed bool) *proxy {
	t.Helper()
	secret := thePassword
	if hashed {
		h, err := bcrypt.GenerateFromPassword([]byte(thePassword), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		secret = string(h)
	}
	return start(t, m, setup{egress: fmt.Sprintf("hosts proxy.test\nrealm \"the realm\"\nbasic_auth %s \"%s\"\n", theUser, secret) + openLoopback})
}

// RFC 9110 §11.7: without the right credentials the answer is a 407 with a
// challenge, nothing leaves, and on HTTP/1.1 a refused CONNECT closes.
func TestAuth_Challenge_RFC9110_11_7(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := withAuth(t, m, false)
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("reached") })
		for _, tc := range []struct{ name, field, reason string }{
			{"missing", "", "missing"},
			{"wrong password", basic(theUser, "wrong"), "bad_password"},
			{"empty password", basic(theUser, ""), "bad_password"},
			{"unknown user", basic("eve", thePassword), "unknown_user"},
			{"upper case user", basic("ADA", thePassword), "unknown_user"},
			{"not base64", "Basic !!!", "malformed"},
			{"no colon", "Basic " + base64.StdEncoding.EncodeToString([]byte("ada")), "malformed"},
			{"other scheme", "Bearer abc", "malformed"},
			{"scheme alone", "Basic", "malformed"},
			{"two fields", "twice", "malformed"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				eachClient(t, p, func(t *testing.T, c *client) {
					header := http.Header{}
					switch {
					case tc.field == "twice":
						header["Proxy-Authorization"] = []string{basic("eve", "x"), basic(theUser, thePassword)}
					case tc.field != "":
						header.Set("Proxy-Authorization", tc.field)
					}
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					for k, v := range header {
						r.Header[k] = v
					}
					resp := c.do(t, r)
					expectChallenge(t, resp.Response)
					tunResp, tun := c.connect(t, origin.addr, "", header)
					expectChallenge(t, tunResp)
					if c.kind == "h1" || c.kind == "h1tls" {
						if !tunResp.Close {
							t.Error("no Connection: close after a refused CONNECT (RFC 9931)")
						}
					}
					tun.Close()
				})
			})
		}
		if origin.count() > 0 {
			t.Errorf("%d connections reached the origin", origin.count())
		}
	})
}

func expectChallenge(t *testing.T, resp *http.Response) {
	t.Helper()
	if resp.StatusCode != 407 {
		t.Errorf("status %d, want 407", resp.StatusCode)
	}
	got := resp.Header.Values("Proxy-Authenticate")
	if len(got) != 1 || !strings.HasPrefix(got[0], `Basic realm="the realm"`) {
		t.Errorf("Proxy-Authenticate %q", got)
	}
	if v := resp.Header.Values("Www-Authenticate"); len(v) > 0 {
		t.Errorf("WWW-Authenticate %q", v)
	}
}

// The right credentials open exchanges and tunnels, the user is in the log,
// the credentials are neither there nor at the origin (RFC 9110 §11.7.2).
func TestAuth_Accepted_RFC9110_11_7_2(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		t.Run(fmt.Sprintf("hashed=%v", hashed), func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := withAuth(t, m, hashed)
				eachClient(t, p, func(t *testing.T, c *client) {
					origin, saw := recorder(t, okResponse)
					echo := newEchoOrigin(t)
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.Header.Set("Proxy-Authorization", basic(theUser, thePassword))
					r.Header.Set("Authorization", "Bearer for-the-origin")
					c.do(t, r).expect(t, 200, "ok")
					up := await(t, saw, "the request")
					if v := up.fields("Proxy-Authorization"); len(v) > 0 {
						t.Errorf("credentials forwarded: %q", v)
					}
					if v := up.fields("Authorization"); len(v) != 1 || v[0] != "Bearer for-the-origin" {
						t.Errorf("Authorization %q", v)
					}
					resp, tun := c.connect(t, echo.addr, "", http.Header{"Proxy-Authorization": {"basic" + strings.TrimPrefix(basic(theUser, thePassword), "Basic")}})
					if resp.StatusCode != 200 {
						t.Fatalf("CONNECT: status %d", resp.StatusCode)
					}
					alive(t, tun, "the tunnel")
					_ = tun.CloseWrite()
					_, _ = io.ReadAll(tun)
					if !m.access {
						return
					}
					for _, l := range []logLine{p.logs.access(t, "GET", origin.addr), p.logs.access(t, "CONNECT", echo.addr)} {
						if got := l.str("user_id"); got != theUser {
							t.Errorf("user_id %q in %v", got, l)
						}
					}
				})
			})
		})
	}
}

// Credentials are in no log line, whatever becomes of the request, also at
// debug level.
func TestAuth_CredentialsNowhereLogged(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{"logged", true}, setup{
		egress: fmt.Sprintf("hosts proxy.test\nbasic_auth %s \"%s\"\n", theUser, thePassword) + openLoopback,
	})
	origin, _ := recorder(t, okResponse)
	secrets := []string{thePassword, "wrong-secret", base64.StdEncoding.EncodeToString([]byte(theUser + ":" + thePassword)), base64.StdEncoding.EncodeToString([]byte(theUser + ":wrong-secret")), base64.StdEncoding.EncodeToString([]byte("evesecret:x")), "not*base64*secret"}
	eachClient(t, p, func(t *testing.T, c *client) {
		for i, field := range []string{basic(theUser, thePassword), basic(theUser, "wrong-secret"), basic("evesecret", "x"), "Basic not*base64*secret"} {
			for _, target := range []string{origin.addr, "10.0.0.1:80", refusedAddr(t)} {
				r := c.newRequest(t, "GET", "http://"+target+"/", nil)
				r.Header.Set("Proxy-Authorization", field)
				resp := c.do(t, r)
				if want := i > 0; want != (resp.StatusCode == 407) {
					t.Errorf("status %d with %q", resp.StatusCode, field)
				}
				_, tun := c.connect(t, target, "", http.Header{"Proxy-Authorization": {field}})
				tun.Close()
			}
		}
		p.logs.access(t, "CONNECT", origin.addr)
	})
	all := p.logs.all()
	for _, s := range secrets {
		if i := strings.Index(all, s); i >= 0 {
			t.Errorf("%q in the log: …%s…", s, all[max(0, i-400):i+len(s)])
		}
	}
}

// The body of a request without credentials is no request (platform trap 1).
func TestAuth_BodyBehindChallenge_Trap1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := withAuth(t, m, false)
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("reached") })
		eachH1AtOnce(t, func(t *testing.T, kind string) {
			raw := p.dialH1(t, kind)
			inner := "GET " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + basic(theUser, thePassword) + "\r\n\r\n"
			raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + inner)
			if resp := raw.response("POST"); resp.StatusCode != 407 || !resp.Close {
				t.Errorf("status %d, close %v", resp.StatusCode, resp.Close)
			}
			raw.trySend(strings.Repeat(inner, 500))
			if rest, _ := io.ReadAll(raw.br); len(rest) > 0 {
				t.Errorf("the proxy answered what was behind: %.200q", rest)
			}
			if origin.count() > 0 {
				t.Error("what was behind the challenge reached the origin")
			}
		})
	})
}

// After a 407 to an exchange without a body the connection stays: the client
// answers the challenge on it.
func TestAuth_SameConnection_RFC9110_11_7(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := withAuth(t, m, false)
		origin, _ := recorder(t, okResponse)
		eachH1(t, func(t *testing.T, kind string) {
			raw := p.dialH1(t, kind)
			if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 407 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nProxy-Authorization: "+basic(theUser, thePassword)+"\r\n\r\n"); resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	})
}
