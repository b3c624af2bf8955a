package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// adapt makes JSON of a Caddyfile, as `caddy adapt` does.
func adapt(tb testing.TB, caddyfile string) ([]byte, error) {
	tb.Helper()
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return out, err
}

func mustAdapt(tb testing.TB, caddyfile string) []byte {
	tb.Helper()
	out, err := adapt(tb, caddyfile)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// expectRefused fails the test unless a Caddyfile is refused for what stands behind
// egress, with that error.
func expectRefused(tb testing.TB, caddyfile, want string) {
	tb.Helper()
	_, err := adapt(tb, caddyfile)
	if want = "parsing caddyfile tokens for 'egress': " + want; err == nil || err.Error() != want {
		tb.Errorf("%s\n got %v\nwant %s", caddyfile, err, want)
	}
}

func readFile(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// validate does what `caddy validate` does.
func validate(raw []byte) error {
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON(raw, &cfg); err != nil {
		return err
	}
	return caddy.Validate(&cfg)
}

// writeCertificates puts the files into the working directory that the golden
// files name: ca.crt, client.crt and client.key, and lists.
func writeCertificates(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, fixture.CertTemplate(), fixture.CertTemplate(), &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.crt":     {Type: "CERTIFICATE", Bytes: cert},
		"client.crt": {Type: "CERTIFICATE", Bytes: cert},
		"client.key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := "# sold by the thousand\n192.0.2.9:8080:user:pass:word\nsocks5://192.0.2.10\n"
	if err := os.WriteFile("proxies.txt", []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, subjects := range map[string]string{
		"allowed.txt": "good.ads.example\n",
		"ads.txt":     "# advertisers\n*.ads.example\n",
		"malware.txt": "192.0.2.0/24\n",
	} {
		fixture.WriteFile(t, name, subjects)
	}
	t.Setenv("PROXY_URL", "https://pages.example.com")
	t.Setenv("PROXY_USER", "user")
	t.Setenv("PROXY_PASSWORD", "password")
}

// findHandler finds a handler by its place.
func findHandler(r *admin.Registry, place string) (*Handler, error) {
	e, err := r.Find(place)
	if err != nil {
		return nil, err
	}
	return (*Handler)(e.(*served)), nil
}

// servingHandlers are the handlers that serve.
func servingHandlers() []*Handler { return handlersOf(&admin.Handlers) }

// handlersOf are the handlers of a registry.
func handlersOf(r *admin.Registry) (out []*Handler) {
	for _, e := range r.All() {
		out = append(out, (*Handler)(e.(*served)))
	}
	return out
}

// What Caddy wraps connections in is known by where it is defined.
func TestCaddyHTTP(t *testing.T) {
	if path := reflect.TypeFor[caddyhttp.Server]().PkgPath(); path != layers.CaddyHTTP {
		t.Errorf("it is %s now", path)
	}
}
