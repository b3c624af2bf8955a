package integration

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// This file contains how DNS servers of the configuration are asked.

// manyBut are addresses of which only the last leads somewhere.
func manyBut(last string) (list []netip.Addr) {
	for i := range 30 {
		list = append(list, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	return append(list, netip.MustParseAddr(last))
}

// A name that only the server of `resolvers` knows is found over each of its
// protocols, by requests and tunnels; over UDP what is truncated is asked for again
// over TCP.
func TestResolvers_Protocols_RFC7858_RFC8484(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := dnstest.Start(t)
		ca := writeFile(t, t.TempDir(), "dns.pem", s.CA)
		_, p := countingOrigin(t, "127.0.0.1")
		trust := " {\n tls_trust_pool file " + ca + "\n tls_curves x25519\n}\n"
		for proto, words := range map[string]string{
			"udp":   s.Addr + "\n",
			"tcp":   "tcp://" + s.Addr + "\n",
			"tls":   "tls://" + s.TLS + trust,
			"https": s.HTTPS + "#example.com" + trust,
		} {
			name := proto + ".test"
			// The other addresses are prohibited, so only a whole answer will do.
			s.Set(name, dnstest.Records{Addrs: manyBut("127.0.0.1"), TTL: 60, SOA: 60, Truncate: true})
			before := s.Asked("tcp")
			proxy := start(t, m, withNames("resolvers "+words))
			eachClient(t, proxy, func(t *testing.T, c *client) {
				c.get(t, "http://"+name+":"+p+"/").expect(t, 200, "from 127.0.0.1")
				resp, tun := c.connect(t, name+":"+p, "", nil)
				if resp.StatusCode != 200 {
					t.Errorf("%s: CONNECT: %d", proto, resp.StatusCode)
				}
				tun.Close()
			})
			if n := s.Asked(proto + " A " + name); n != 1 {
				t.Errorf("%s: asked %d times for A", proto, n)
			}
			if n := s.Asked("tcp A " + name); proto == "udp" && n != 1 {
				t.Errorf("asked %d times over TCP for what was truncated (%d before)", n, before)
			}
		}
	})
}

// A server over TLS that the configuration does not trust tells nothing.
func TestResolvers_Trust(t *testing.T) {
	checkLeaks(t)
	s := dnstest.Start(t)
	ca := writeFile(t, t.TempDir(), "dns.pem", s.CA)
	other := caFile(t)
	s.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
	_, p := countingOrigin(t, "127.0.0.1")
	for _, tc := range []struct {
		words string
		ok    bool
	}{
		{"tls://" + s.TLS, false},
		{s.HTTPS, false},
		{"tls://" + s.TLS + " {\n tls_trust_pool file " + other + "\n}", false},
		{s.HTTPS + " {\n tls_trust_pool file " + other + "\n}", false},
		{"tls://" + s.TLS + "#other.test {\n tls_trust_pool file " + ca + "\n}", false},
		{"tls://" + s.TLS + "#example.com {\n tls_trust_pool file " + ca + "\n}", true},
		{"tls://" + s.TLS + " {\n tls_insecure_skip_verify\n}", true},
		{s.HTTPS + " {\n tls_insecure_skip_verify\n}", true},
	} {
		c := start(t, modes[0], withNames("resolvers "+tc.words+"\n")).client(t, "h1")
		r := c.get(t, "http://origin.test:"+p+"/")
		if tc.ok {
			r.expect(t, 200, "from 127.0.0.1")
		} else {
			expectError(t, r.Response, 502, "dns_error")
		}
	}
	if n := s.Asked("A"); n != 3 {
		t.Errorf("%d questions came through, want those of the three that trust", n)
	}
}

// A server may ask for a certificate of ours. What stands in the files is looked at
// again by each reload.
func TestResolvers_ClientCertificate(t *testing.T) {
	checkLeaks(t)
	clients := x509.NewCertPool()
	clients.AddCert(testCA().cert)
	s := dnstest.Start(t, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients })
	s.Set("origin.test", dnstest.Records{Addrs: addresses("127.0.0.1"), TTL: 60, SOA: 60})
	_, p := countingOrigin(t, "127.0.0.1")
	dir := t.TempDir()
	cert, key := testCA().issue("egress.test")
	pair := writeFile(t, dir, "client.pem", cert) + " " + writeFile(t, dir, "client.key", key)
	for _, server := range []string{"tls://" + s.TLS, s.HTTPS} {
		trusted := writeFile(t, dir, "roots.pem", testCA().pem) // not yet the server's
		egress := func(auth string) setup {
			return withNames("resolvers " + server + " {\n tls_trust_pool file " + trusted + "\n" + auth + "\n}\n")
		}
		with := egress("tls_client_auth " + pair)
		proxy := start(t, modes[0], with)
		c := proxy.client(t, "h1")
		expectError(t, c.get(t, "http://origin.test:"+p+"/").Response, 502, "dns_error")
		if err := os.WriteFile(filepath.Join(dir, "roots.pem"), s.CA, 0o600); err != nil {
			t.Fatal(err)
		}
		proxy.reload(t, with) // nothing has changed but the file
		c.get(t, "http://origin.test:"+p+"/").expect(t, 200, "from 127.0.0.1")
		proxy.reload(t, egress(""))
		expectError(t, c.get(t, "http://origin.test:"+p+"/").Response, 502, "dns_error")
	}
}
