package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// caddy is a Caddy in a process of its own.
type caddy struct {
	name    string
	binary  []string // the program and what it needs in front of its arguments
	dir     string
	admin   string // address of its admin API
	plain   string // of the proxy in clear
	secure  string // and within TLS
	config  string // the Caddyfile
	logPath string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// startTimeout and stopTimeout bound the start and the orderly end of a Caddy.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
)

// newCaddy chooses the addresses of a Caddy that is to be started.
func newCaddy(name string, binary []string, parent string) (*caddy, error) {
	c := &caddy{name: name, binary: binary, dir: filepath.Join(parent, name)}
	c.logPath = filepath.Join(c.dir, "log")
	for _, addr := range []*string{&c.admin, &c.plain, &c.secure} {
		var err error
		if *addr, err = freeport.Addr(); err != nil {
			return nil, err
		}
	}
	return c, os.MkdirAll(c.dir, 0o700)
}

// start runs it until stop or kill, and returns when it serves. Its log is
// continued where it has been started before.
func (c *caddy) start(ctx context.Context) error {
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
		return err
	}
	logFile, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	args := append(c.binary[1:len(c.binary):len(c.binary)], "run", "--config", file, "--adapter", "caddyfile")
	c.cmd = exec.CommandContext(ctx, c.binary[0], args...)
	c.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+c.dir, "XDG_DATA_HOME="+c.dir, "GOMAXPROCS=2")
	c.cmd.SysProcAttr = dieWithParent
	c.cmd.Stdout, c.cmd.Stderr = logFile, logFile
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(c.cmd, c.done)
	return c.await()
}

// await waits until both proxies accept.
func (c *caddy) await() error {
	deadline := time.Now().Add(startTimeout)
	for _, addr := range []string{c.plain, c.secure} {
		for {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-c.done:
				return fmt.Errorf("%s has ended; its log is %s", c.name, c.logPath)
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				c.kill()
				return fmt.Errorf("%s does not start: %w; its log is %s", c.name, err, c.logPath)
			}
		}
	}
	return nil
}

// kill ends the process at once and returns when it is gone.
func (c *caddy) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// stop ends the process in an orderly way. It tells when that did not work.
func (c *caddy) stop() error {
	if c.cmd == nil {
		return nil
	}
	select {
	case <-c.done:
		return fmt.Errorf("%s has ended by itself: %v", c.name, c.cmd.ProcessState)
	default:
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
		if code := c.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("%s exits with %d", c.name, code)
		}
		return nil
	case <-time.After(stopTimeout):
		c.kill()
		return fmt.Errorf("%s does not end within %v of SIGTERM", c.name, stopTimeout)
	}
}

// adminClient leaves no connection behind, which would count as a descriptor.
var adminClient = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   time.Minute,
}

// ask sends a request to the admin API.
func (c *caddy) ask(method, path, contentType, body string) ([]byte, error) {
	r, err := http.NewRequest(method, "http://"+c.admin+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Cache-Control", "must-revalidate") // load it even if it is the same
	}
	resp, err := adminClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return text, err
}

// load gives it another configuration.
func (c *caddy) load(config string) error {
	_, err := c.ask(http.MethodPost, "/load", "text/caddyfile", config)
	return err
}

// metrics returns the sums of metrics by their names.
func (c *caddy) metrics() (map[string]float64, error) {
	text, err := c.ask(http.MethodGet, "/metrics", "", "")
	if err != nil {
		return nil, err
	}
	sums := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			sums[name] += v
		}
	}
	return sums, nil
}

// complaints are what the log tells of bugs: of panics and data races, with what
// stands behind them.
func (c *caddy) complaints() error {
	const context = 60 // lines
	text, err := os.ReadFile(c.logPath)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(text), "\n")
	var found []error
	for i := 0; i < len(lines); i++ {
		for _, word := range []string{"panic", "DATA RACE", "fatal error"} {
			if strings.Contains(lines[i], word) {
				end := min(i+context, len(lines))
				found = append(found, fmt.Errorf("%s: %s", c.name, strings.Join(lines[i:end], "")))
				i = end
				break
			}
		}
	}
	return errors.Join(found...)
}
