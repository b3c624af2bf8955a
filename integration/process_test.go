package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file contains how a Caddy is run as a process of its own, for what ends one.
// Tests with such Caddys may run in parallel with each other.

// binaries is where binaries are built; TestMain removes it.
var binaries string

// ownEnv is what this process was started with, and with it where go has its caches.
var ownEnv = os.Environ()

// caddyBinary is cmd/caddy, built once.
var caddyBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "caddy")
	build := exec.Command("go", "build", "-o", path, "github.com/caddy-egress/egress/cmd/caddy")
	build.Env = ownEnv
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// process is a Caddy that runs as a process.
type process struct {
	*proxy
	admin     string
	elsewhere string // a free address, for handlers that move
	cmd       *exec.Cmd
	ended     chan struct{} // closed when it has exited
}

// processSetup is what differs between the configurations of processes.
type processSetup struct {
	global string // global options
	site   string // further directives of the sites
	egress string // further lines of the egress block; "none" for no block
	secure string // the same of the site with TLS; "" for egress
	plain  string // the address in clear, "" for the first one
	env    []string
}

// reserve finds addresses for a process, which tests do before they are parallel.
func reserve(t *testing.T) *process {
	t.Helper()
	return &process{
		proxy: &proxy{mode: mode{access: true}, plain: freeAddr(t), secure: freeAddr(t), storage: t.TempDir()},
		admin: freeAddr(t), elsewhere: freeAddr(t),
		ended: make(chan struct{}),
	}
}

// start runs the process, and kills it at the end of the test.
func (p *process) start(t *testing.T, s processSetup) {
	t.Helper()
	binary, err := caddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	p.logs = newLogCapture(t)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(p.caddyfile(t, s)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(binary, "run", "--config", file)
	r, w := io.Pipe()
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.Stderr = w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var logs sync.WaitGroup
	logs.Go(func() {
		for lines := bufio.NewReader(r); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			_, _ = p.logs.Write(line)
		}
	})
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
		w.Close()
		logs.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	p.awaitLog(t, "serving initial configuration")
}

// caddyfile is the configuration: one server in clear and one with TLS, as the other
// tests have it. The handlers have names.
func (p *process) caddyfile(t *testing.T, s processSetup) string {
	t.Helper()
	site := func(name, more string) string {
		if more == "none" {
			return "log\nrespond gone\n"
		}
		egress := usual + more
		if strings.Contains(more, "basic_auth") {
			egress = strings.Replace(egress, "allow_unauthenticated\n", "", 1)
		}
		return "log\n" + s.site + "egress {\n name " + name + "\n" + egress + "}\n"
	}
	cert, key := proxyCertFiles(t)
	global := globals{
		admin: p.admin, storage: p.storage,
		more: "skip_install_trust\nlog {\n output stderr\n format json\n}\n" + s.global,
	}
	return fmt.Sprintf(`%s
http://:%s {
	bind 127.0.0.1
	%s
}
https://:%s {
	bind 127.0.0.1
	tls %s %s
	%s
}
`, global, port(cmp.Or(s.plain, p.plain)), site("clear", s.egress), port(p.secure), cert, key, site("tls", cmp.Or(s.secure, s.egress)))
}

// signal sends the process a signal.
func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// post calls the admin API.
func (p *process) post(path, contentType string, body []byte) error {
	r, err := http.NewRequest(http.MethodPost, "http://"+p.admin+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Cache-Control", "must-revalidate") // load what is the same again
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status + ": " + string(text))
	}
	return nil
}

// load gives the process another configuration. When it returns, who connects is served
// by that configuration: a connection that waits in the queue of a listener that is
// about to close is reset by the kernel (docs/reliability.md, "What a reload can lose").
// Loads that follow lean on the same, as the admin endpoint is replaced as well.
func (p *process) load(t *testing.T, s processSetup) {
	t.Helper()
	if err := p.post("/load", "text/caddyfile", []byte(p.caddyfile(t, s))); err != nil {
		t.Fatalf("reloading: %v", err)
	}
	for _, addr := range []string{cmp.Or(s.plain, p.plain), p.secure, p.admin} {
		awaitOneListener(t, addr)
	}
}

// awaitLog waits for a line of the log.
func (p *process) awaitLog(t *testing.T, msg string) logLine {
	t.Helper()
	return p.logs.wait(t, msg, func(l logLine) bool { return l.str("msg") == msg })
}

// exit waits for the end of the process, and returns its code.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * patience):
		t.Fatal("the process has not ended")
	}
	return p.cmd.ProcessState.ExitCode()
}

// runs reports whether the process has not ended.
func (p *process) runs() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}
