package egress

import (
	"crypto/x509"
	"runtime"
	"testing"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/shared"
)

// Sets of roots have the number of their like as long as any of these is in use, and
// are not kept for ever.
func TestRootSets(t *testing.T) {
	rootsOf := func(name string) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(&x509.Certificate{Raw: []byte(name), RawSubject: []byte(name)})
		return p
	}
	var all shared.RootSets
	if n := all.Number(nil); n != 0 {
		t.Errorf("no roots have number %d", n)
	}
	first, other := rootsOf("a"), rootsOf("b")
	a, b := all.Number(first), all.Number(other)
	if a == b || all.Number(first) != a {
		t.Errorf("numbers %d and %d", a, b)
	}
	// A configuration takes the place of the one before, and the next that of it.
	second := rootsOf("a")
	if n := all.Number(second); n != a {
		t.Errorf("the same roots have number %d and %d", a, n)
	}
	runtime.KeepAlive(first)
	first = nil
	runtime.GC()
	third := rootsOf("a")
	if n := all.Number(third); n != a {
		t.Errorf("after the first is gone: number %d, want %d", n, a)
	}
	runtime.KeepAlive(second)
	runtime.KeepAlive(other)
	for range 100 {
		all.Number(rootsOf("c"))
		runtime.GC()
	}
	if n := len(all.Sets); n > 5 {
		t.Errorf("%d sets are kept", n)
	}
	if n := all.Number(rootsOf("b")); n == a || n == b {
		t.Errorf("a number that connections may have was given away again: %d", n)
	}
	runtime.KeepAlive(third)
}

// Connections to origins stand on the certificates that were in the files when they were
// made: a reload keeps them only where the files say the same.
func TestPoolFollowsCertificates(t *testing.T) {
	const config = `{"transport": {"tls": {"ca": {"provider": "file", "pem_files": ["ca.crt"]},
		"client_certificate_file": "client.crt", "client_certificate_key_file": "client.key"}}}`
	t.Chdir(t.TempDir())
	writeCertificates(t)
	first, _ := mustLoadModule(t, config)
	if same, _ := mustLoadModule(t, config); same.pool != first.pool {
		t.Error("another pool, though nothing has changed")
	}
	writeCertificates(t)
	if other, _ := mustLoadModule(t, config); other.pool == first.pool {
		t.Error("the pool of the old certificates is used with the new ones")
	}
}

// Connections to upstreams find them by the resolver that they were made with, so they
// go where the certificates change by which that is known, though the settings stay.
func TestUpstreamConnectionsFollowResolver(t *testing.T) {
	const config = `{"transport": {"resolver": {"addresses": ["tls://192.0.2.1"], "tls": {"ca": {"provider": "file", "pem_files": ["ca.crt"]}}}},
		"groups": {"default": {"upstreams": [{"url": "http://proxy.test:8080"}]}}}`
	t.Chdir(t.TempDir())
	writeCertificates(t)
	connections := func() (*upstreamConns, *dial.Names) {
		h, _ := mustLoadWithApps(t, config)
		for _, m := range h.groups["default"].current() {
			return m.conns, h.names
		}
		t.Fatal("no member")
		return nil, nil
	}
	first, names := connections()
	if same, sameNames := connections(); same != first || sameNames != names {
		t.Error("other connections, though nothing has changed")
	}
	writeCertificates(t)
	if other, otherNames := connections(); otherNames == names || other == first {
		t.Error("upstreams are looked up with the old certificates")
	}
}
