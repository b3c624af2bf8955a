package egress

import (
	"testing"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Connections to origins stand on the certificates that were in the files when they were
// made: a reload keeps them only where the files say the same.
func TestPoolFollowsCertificates(t *testing.T) {
	const config = `{"transport": {"tls": {"ca": {"provider": "file", "pem_files": ["ca.crt"]},
		"client_certificate_file": "client.crt", "client_certificate_key_file": "client.key"}}}`
	t.Chdir(t.TempDir())
	writeCertificates(t)
	first, _ := mustLoadModule(t, config)
	if same, _ := mustLoadModule(t, config); same.proxy.Pool != first.proxy.Pool {
		t.Error("another pool, though nothing has changed")
	}
	writeCertificates(t)
	if other, _ := mustLoadModule(t, config); other.proxy.Pool == first.proxy.Pool {
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
	connections := func() (*upstream.Conns, *dial.Names) {
		h, _ := mustLoadWithApps(t, config)
		for _, m := range h.groups["default"].Current() {
			return m.Conns, h.names
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
