package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Listeners that Caddy was given as descriptors, by systemd for instance, are its own:
// neither the site nor the admin endpoint behind them is dialed, unless a rule names
// exactly that address. What another process listens on is not concerned.
func TestSelf_ListenersFromDescriptors(t *testing.T) {
	var files []*os.File
	var addrs []string
	for range 3 { // the site, the admin endpoint, and one that a rule opens
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		t.Cleanup(func() { f.Close() })
		files, addrs = append(files, f), append(addrs, ln.Addr().String())
	}
	plain, echo := freeAddr(t), newEchoOrigin(t)
	config := filepath.Join(t.TempDir(), "Caddyfile")
	text := fmt.Sprintf(`%s
http:// {
	bind fd/3 fd/5
	respond site
}
http://:%s {
	bind 127.0.0.1
	egress {
		allow_unauthenticated
		acl {
			allow %s
			allow 127.0.0.0/8
		}
	}
}
`, globals{admin: "fd/4", storage: t.TempDir()}, port(plain), addrs[2])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), asCaddy+"=1")
	cmd.ExtraFiles = files
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", plain); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Caddy does not listen")
		}
	}
	p := &proxy{plain: plain}
	for _, tc := range []struct {
		what, addr string
		want       int
	}{
		{"the site", addrs[0], 508},
		{"the admin endpoint", addrs[1], 508},
		{"one that a rule opens", addrs[2], 200},
		{"another process", echo.addr, 200},
	} {
		c := p.dialH1(t, "h1")
		c.send("CONNECT " + tc.addr + " HTTP/1.1\r\nHost: " + tc.addr + "\r\n\r\n")
		if resp := c.responseHead("CONNECT"); resp.StatusCode != tc.want {
			t.Errorf("%s: status %d; want %d", tc.what, resp.StatusCode, tc.want)
		}
	}
}
