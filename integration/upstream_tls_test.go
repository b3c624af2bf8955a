package integration

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"
)

// This file contains TLS towards upstreams, as the configuration wants it.

// newStrictUpstream starts a proxy at 127.0.0.1 whose certificate is for
// proxy.internal, which speaks one curve, and which wants a certificate of the test's
// authority from its clients. It tells what it has seen of each handshake.
func newStrictUpstream(t *testing.T) (*fakeUpstream, <-chan tls.ConnectionState) {
	t.Helper()
	cfg := testCA().serverTLS("proxy.internal")
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	cfg.ClientCAs.AddCert(testCA().cert)
	cfg.CurvePreferences = []tls.CurveID{tls.CurveP384}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan tls.ConnectionState, 100)
	u := new(fakeUpstream)
	u.rawOrigin = serveRaw(t, ln, func(oc *originConn) {
		tc := oc.Conn.(*tls.Conn)
		if tc.Handshake() != nil {
			return
		}
		seen <- tc.ConnectionState()
		for {
			r := oc.request()
			u.heads.Add(1)
			if r.method == http.MethodConnect {
				tunnelTo(oc, r.target, "HTTP/1.1 200 OK\r\n\r\n")
				return
			}
			oc.ok("through TLS")
		}
	})
	return u, seen
}

// An upstream that wants a certificate of us, a curve and a name of its own gets them:
// for exchanges and for tunnels. Without any one of them nothing gets through.
func TestUpstreamTLS_ClientCertificate(t *testing.T) {
	checkLeaks(t)
	dir := t.TempDir()
	cert, key := testCA().issue("egress.test")
	certFile, keyFile := writeFile(t, dir, "client.pem", cert), writeFile(t, dir, "client.key", key)
	ca := caFile(t)
	all := map[string]string{
		"tls_trust_pool":  "file " + ca,
		"tls_client_auth": certFile + " " + keyFile,
		"tls_curves":      "x25519 secp384r1",
		"tls_server_name": "proxy.internal",
	}
	config := func(change, to string) string {
		var b strings.Builder
		for word, args := range all {
			if word == change {
				args = to
			}
			if args != "" {
				b.WriteString(word + " " + args + "\n")
			}
		}
		return b.String()
	}
	origin := sourceless(t)
	for _, where := range []string{"upstream", "group"} {
		up, seen := newStrictUpstream(t)
		egress := func(words string) setup {
			if where == "group" {
				return setup{egress: group(words, "https://"+up.addr)}
			}
			return setup{egress: usual + "upstream https://" + up.addr + " {\n" + words + "}\n"}
		}
		for _, bad := range []struct{ word, args string }{
			{"tls_client_auth", ""},
			{"tls_curves", "x25519"},
			{"tls_server_name", ""},
			{"tls_server_name", "other.internal"},
			{"tls_trust_pool", ""},
		} {
			c := start(t, modes[0], egress(config(bad.word, bad.args))).client(t, "h1")
			if r := c.get(t, "http://o.test/"); r.StatusCode != 502 {
				t.Errorf("%s %q: exchange: %d", bad.word, bad.args, r.StatusCode)
			}
			resp, tun := c.connect(t, origin.addr, "", nil)
			if tun.Close(); resp.StatusCode != 502 {
				t.Errorf("%s %q: CONNECT: %d", bad.word, bad.args, resp.StatusCode)
			}
		}
		if n := up.asked(); n > 0 {
			t.Fatalf("%d requests got through", n)
		}
		eachClient(t, start(t, modes[0], egress(config("", ""))), func(t *testing.T, c *client) {
			c.get(t, "http://o.test/").expect(t, 200, "through TLS")
			resp, tun := c.connect(t, origin.addr, "", nil)
			defer tun.Close()
			if resp.StatusCode != 200 {
				t.Fatalf("CONNECT: %d", resp.StatusCode)
			}
			write(t, tun, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			const want = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\norigin"
			if got := readN(t, tun, len(want)); got != want {
				t.Errorf("through the tunnel: %q", got)
			}
		})
		state := await(t, seen, "a handshake")
		if got := state.PeerCertificates[0].Subject.CommonName; got != "egress.test" || state.ServerName != "proxy.internal" || state.CurveID != tls.CurveP384 {
			t.Errorf("the upstream saw %s, name %q, curve %s", got, state.ServerName, state.CurveID)
		}
	}
}

// sourceless is an origin that answers every request alike.
func sourceless(t *testing.T) *rawOrigin {
	return newRawOrigin(t, func(oc *originConn) {
		for {
			oc.request()
			oc.ok("origin")
		}
	})
}

// A certificate that was renewed in its file is used after the next reload, though the
// configuration is the same; one that was not leaves connections as they are.
func TestUpstreamTLS_RenewedCertificate(t *testing.T) {
	checkLeaks(t)
	dir := t.TempDir()
	cert, key := testCA().issue("first.test")
	certFile, keyFile := writeFile(t, dir, "client.pem", cert), writeFile(t, dir, "client.key", key)
	up, seen := newStrictUpstream(t)
	same := setup{egress: group("tls_server_name proxy.internal\ntls_trust_pool file "+caFile(t)+"\ntls_client_auth "+certFile+" "+keyFile, "https://"+up.addr)}
	p := start(t, modes[0], same)
	c := p.client(t, "h1")
	c.get(t, "http://o.test/").expect(t, 200, "through TLS")
	p.reload(t, setup{egress: same.egress + "server_name other\n"})
	c.get(t, "http://o.test/").expect(t, 200, "through TLS")
	if n := up.count(); n != 1 {
		t.Errorf("%d connections after a reload that changed nothing", n)
	}
	cert, key = testCA().issue("second.test")
	for path, data := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.reload(t, same)
	c.get(t, "http://o.test/").expect(t, 200, "through TLS")
	for _, want := range []string{"first.test", "second.test"} {
		if state := await(t, seen, "a handshake"); state.PeerCertificates[0].Subject.CommonName != want {
			t.Errorf("the upstream saw %s, want %s", state.PeerCertificates[0].Subject.CommonName, want)
		}
	}
}
