//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// caddyRun is one Caddy: its binary, directory, port and Caddyfile.
type caddyRun struct{ binary, dir, port, config string }

// newCaddyRun writes a Caddyfile with one site, which has the given directives.
// The site is a catch-all, as a proxy has to be.
func newCaddyRun(l *lab, scheme, directives string) (c caddyRun, err error) {
	return newCaddyRunWith(l, "admin off", scheme, directives)
}

// newCaddyRunWith is newCaddyRun with a global option.
func newCaddyRunWith(l *lab, option, scheme, directives string) (c caddyRun, err error) {
	c.binary = l.refcaddy
	if c.port, err = freePort(); err != nil {
		return c, err
	}
	if c.dir, err = os.MkdirTemp(l.dir, "caddy-"); err != nil {
		return c, err
	}
	c.config = filepath.Join(c.dir, "Caddyfile")
	text := fmt.Sprintf("{\n%s\nauto_https off\n}\n%s://:%s {\nbind 127.0.0.1\n%s\n}\n", option, scheme, c.port, directives)
	return c, os.WriteFile(c.config, []byte(text), 0o600)
}

func (c caddyRun) command(l *lab, action string) *exec.Cmd {
	cmd := command(l.ctx, c.binary, action, "--config", c.config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+c.dir, "XDG_DATA_HOME="+c.dir, "BENCH_SETTLED="+c.settled())
	return cmd
}

// settled is the file in which refcaddy says that it has settled, and how many
// goroutines it has.
func (c caddyRun) settled() string { return filepath.Join(c.dir, "settled") }

func (c caddyRun) start(l *lab) (*proxy, error) {
	p, err := startProxy(c.command(l, "run"), filepath.Join(c.dir, "log"), c.port)
	if err != nil {
		return nil, err
	}
	signal := p.settle
	p.settle = func() error {
		_, err := settleCaddy(signal, c.settled())
		return err
	}
	p.goroutines = func() (int, error) { return settleCaddy(signal, c.settled()) }
	return p, nil
}

// settleCaddy has refcaddy give free memory back, waits until it has, and
// returns the number of its goroutines.
func settleCaddy(signal func() error, file string) (int, error) {
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	if err := signal(); err != nil {
		return 0, err
	}
	for range 1000 {
		if text, err := os.ReadFile(file); err == nil {
			return strconv.Atoi(strings.TrimSpace(string(text)))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("it has not written %s", file)
}

// caddy starts the benchmark's Caddy with the given directive.
func caddy(directive string) func(*lab) (*proxy, error) {
	return func(l *lab) (*proxy, error) {
		c, err := newCaddyRun(l, "http", directive)
		if err != nil {
			return nil, err
		}
		return c.start(l)
	}
}

// startCaddyTLS starts egress for clients that speak HTTP/2.
func startCaddyTLS(l *lab) (*proxy, error) {
	c, err := newCaddyRun(l, "https", fmt.Sprintf("tls %s %s\negress {\n%s}", l.cert.Cert, l.cert.Key, egressRules))
	if err != nil {
		return nil, err
	}
	return c.start(l)
}

// startReverseProxy starts Caddy's own proxy, with the origin as its only
// upstream and enough idle connections for any load.
func startReverseProxy(l *lab) (*proxy, error) {
	return caddy(fmt.Sprintf(`reverse_proxy %s {
transport http {
keepalive 5m
keepalive_idle_conns 8192
keepalive_idle_conns_per_host 8192
compression off
}
}`, l.listener["http"]))(l)
}

// behind is egress that sends everything to another proxy.
func behind(upstream string) string {
	return fmt.Sprintf("egress {\n%supstream http://%s\n}", egressRules, upstream)
}

// startBehind starts an egress in front of another. Only the first one's cost
// counts: what leaving through an upstream costs is the question.
func startBehind(l *lab) (*proxy, error) {
	upstream, err := l.start(egress)
	if err != nil {
		return nil, err
	}
	p, err := caddy(behind(upstream.entry("")))(l)
	if err != nil {
		upstream.stop()
		return nil, err
	}
	return p.and(upstream), nil
}

// startBehindHTTP2 is startBehind with an upstream that takes many tunnels on one
// connection.
func startBehindHTTP2(l *lab) (*proxy, error) {
	upstream, err := l.start(egressHTTP2)
	if err != nil {
		return nil, err
	}
	p, err := caddy(fmt.Sprintf("egress {\n%supstream https://%s {\ntls_insecure_skip_verify\n}\n}", egressRules, upstream.entry("")))(l)
	if err != nil {
		upstream.stop()
		return nil, err
	}
	return p.and(upstream), nil
}

// and stops another proxy behind this one.
func (p *proxy) and(other *proxy) *proxy {
	stop := p.stop
	p.stop = func() {
		stop()
		other.stop()
	}
	return p
}

// noUpstreams says whether this egress knows the directive upstream.
func noUpstreams(l *lab) error {
	c, err := newCaddyRun(l, "http", behind("127.0.0.1:1"))
	if err != nil {
		return err
	}
	if said, err := c.command(l, "validate").CombinedOutput(); err != nil {
		return fmt.Errorf("its configuration is refused: %s", cmp.Or(lastMessage(said), err.Error()))
	}
	return nil
}

// lastMessage is the message of the last line of a log.
func lastMessage(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	last := lines[len(lines)-1]
	var line struct{ Msg string }
	if json.Unmarshal(last, &line) == nil && line.Msg != "" {
		return line.Msg
	}
	return string(last)
}

// startProxy starts a proxy that listens on one port of 127.0.0.1, and waits
// until it does. SIGUSR2 asks it to give free memory back.
func startProxy(cmd *exec.Cmd, logPath, port string) (*proxy, error) {
	logFile, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	p := &proxy{
		pids:   []int{pid},
		stop:   func() { killTree(pid); _ = cmd.Wait() },
		settle: func() error { return cmd.Process.Signal(syscall.SIGUSR2) },
		entry:  func(string) string { return net.JoinHostPort("127.0.0.1", port) },
	}
	if err = awaitListener(p.entry("")); err == nil {
		err = checkListener(pid, port)
	}
	if err != nil {
		p.stop()
		text, _ := os.ReadFile(logPath)
		return nil, fmt.Errorf("%w; its log:\n%s", err, text)
	}
	return p, nil
}

// awaitListener connects until that succeeds.
func awaitListener(addr string) error {
	var c net.Conn
	var err error
	for range 400 {
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// freePort returns a port of 127.0.0.1 on which nobody listens.
func freePort() (string, error) {
	port, err := freeport.Get()
	return strconv.Itoa(port), err
}
