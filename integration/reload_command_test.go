package integration

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runCommand runs Caddy in a process of its own, with a file that it watches.
func (s *loadSite) runCommand(file string) {
	s.Helper()
	cmd := s.command("run", "--watch", "--config", file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				s.Errorf("Caddy ended with %v", err)
			}
		case <-time.After(3 * patience):
			_ = cmd.Process.Kill()
			<-ended
			s.Error("Caddy does not end")
		}
		if s.Failed() {
			s.Logf("Caddy said: %s", &said)
		}
	})
	for _, addr := range []string{s.proxy.plain, s.proxy.secure, s.control, s.controlTLS, s.admin} {
		eventually(s.T, "Caddy to listen on "+addr, func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

func (s *loadSite) command(args ...string) *exec.Cmd {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(self, append(args, "--adapter", "caddyfile")...)
	cmd.Env = append(os.Environ(), asCaddy+"=1")
	return cmd
}

// awaitGeneration waits until the last configuration serves.
func (s *loadSite) awaitGeneration() {
	s.Helper()
	want := s.name()
	c := s.client("h1", false, true)
	defer c.close()
	eventually(s.T, "configuration "+want, func() bool {
		r, _ := http.NewRequest(http.MethodGet, s.origin, http.NoBody)
		resp, err := c.rt.RoundTrip(r)
		if err != nil {
			return false // a fresh connection may be lost
		}
		resp.Body.Close()
		return strings.HasSuffix(resp.Header.Get("Via"), " "+want)
	})
}

// The command `caddy reload`, and a file that is watched, reload as the admin endpoint
// does.
func TestReload_Commands(t *testing.T) {
	s := newLoadSite(t)
	watched, other := filepath.Join(t.TempDir(), "watched"), filepath.Join(t.TempDir(), "other")
	write := func(file string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(s.caddyfile()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil { // never half a file
			t.Fatal(err)
		}
	}
	write(watched)
	s.runCommand(watched)
	n := reloads(4)
	s.judge(s.underLoad(func() {
		for range n {
			write(other)
			if out, err := s.command("reload", "--force", "--address", s.admin, "--config", other).CombinedOutput(); err != nil {
				t.Fatalf("reload: %v\n%s", err, out)
			}
			s.awaitGeneration()
		}
		for range min(n, 10) {
			write(watched)
			s.awaitGeneration()
		}
	}))
}
