package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/faultnet"
)

// startParent runs another Caddy with egress in it, in a process of its own: in clear,
// and over TLS with HTTP/2.
func startParent(t *testing.T) (plain, secure string) {
	t.Helper()
	plain, secure = freeAddr(t), freeAddr(t)
	cert, key := proxyCertFiles(t)
	config := filepath.Join(t.TempDir(), "Caddyfile")
	text := fmt.Sprintf(`%s
http://:%s {
	bind 127.0.0.1
	egress {
		%s
	}
}
https://:%s {
	bind 127.0.0.1
	tls %s %s
	egress {
		%s
	}
}
`, globals{storage: t.TempDir(), more: "skip_install_trust"}, port(plain), usual, port(secure), cert, key, usual)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), asCaddy+"=1")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the parent said: %s", &said)
		}
	})
	for _, addr := range []string{plain, secure} {
		for deadline := time.Now().Add(patience); ; {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the parent does not listen: %s", &said)
			}
			time.Sleep(10 * time.Millisecond) // another process has no event for it
		}
	}
	return plain, secure
}

// An egress behind an egress: exchanges and tunnels from clients of all protocols, over
// HTTP/1.1, over TLS, and over HTTP/2, where many tunnels take one connection.
func TestUpstream_EgressBehindEgress(t *testing.T) {
	plain, secure := startParent(t)
	for name, of := range map[string]struct{ scheme, addr, block string }{
		"http":  {"http", plain, ""},
		"https": {"https", secure, " {\n tls_server_name proxy.test\n tls_trust_pool file " + caFile(t) + "\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			between, err := faultnet.Start(of.addr, faultnet.Always(faultnet.Script{}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { between.Close() })
			p := start(t, mode{access: true}, setup{egress: usual + "upstream " + of.scheme + "://" + between.Addr + of.block + "\n"})
			origin, _ := recorder(t, okResponse)
			echo := newEchoOrigin(t)
			eachClient(t, p, func(t *testing.T, c *client) {
				for range 3 {
					c.get(t, origin.url("/")).expect(t, 200, "ok")
				}
				before := between.Conns()
				var tunnels []*tunnel
				for range 20 {
					tunnels = append(tunnels, c.open(t, echo.addr))
				}
				for _, tun := range tunnels {
					alive(t, tun, "the tunnel")
				}
				opened := between.Conns() - before
				if most := map[string]int{"http": 20, "https": 1}[name]; opened > most {
					t.Errorf("20 tunnels took %d connections to the parent", opened)
				}
				for _, tun := range tunnels {
					tun.Close()
				}
			})
		})
	}
}
