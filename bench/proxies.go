//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// subject is something that is measured. Add peers here.
type subject struct {
	name  string
	start func(*lab) (*proxy, error)
	fixed bool // answers by itself: the origin sees nothing
	bare  bool // no proxy, but an entry to each of the origin's listeners
}

// The names of the subjects.
const (
	egress       = "egress"
	transport    = "http.Transport + io.Copy"
	noReadFrom   = "the same, ReadFrom hidden"
	caddyRespond = "Caddy respond"
	bareRelay    = "bare relay"
)

var subjects = []subject{
	{name: egress, start: caddy("egress {\nacl {\nallow 127.0.0.0/8\n}\n}")},
	{name: transport, start: caddy("bench_reference")},
	{name: noReadFrom, start: caddy("bench_reference hide_read_from")},
	{name: caddyRespond, fixed: true, start: caddy("respond " + string((&body{id: noID}).append(nil, getSize)))},
	{name: bareRelay, bare: true, start: startRelay},
}

func subjectNamed(name string) subject {
	for _, s := range subjects {
		if s.name == name {
			return s
		}
	}
	panic("no subject " + name)
}

// proxy is a subject that runs.
type proxy struct {
	subject
	pid    int
	stop   func()
	settle func() error                 // gives free memory back; nil where there is no such thing
	entry  func(listener string) string // where to connect for one of the origin's listeners
}

// lab is what the subjects have in common.
type lab struct {
	ctx      context.Context
	dir      string // for what they write
	refcaddy string // the binary
	origin   *child
	listener map[string]string // the origin's, by name
}

// newLab builds the binary of the Caddy subjects and starts an origin.
func newLab(ctx context.Context, dir string) (*lab, error) {
	l := &lab{ctx: ctx, dir: dir, refcaddy: filepath.Join(dir, "refcaddy")}
	build := command(ctx, "go", "build", "-o", l.refcaddy, "github.com/caddy-egress/egress/bench/refcaddy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building refcaddy: %w", err)
	}
	var err error
	l.origin, err = startSelf(ctx, &l.listener, "origin")
	return l, err
}

// caddy starts the benchmark's Caddy with the given directive.
func caddy(directive string) func(*lab) (*proxy, error) {
	return func(l *lab) (*proxy, error) {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(l.dir, "caddy-")
		if err != nil {
			return nil, err
		}
		config := filepath.Join(dir, "Caddyfile")
		text := fmt.Sprintf("{\nadmin off\n}\nhttp://:%s {\nbind 127.0.0.1\n%s\n}\n", port, directive)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		cmd := command(l.ctx, l.refcaddy, "run", "--config", config, "--adapter", "caddyfile")
		cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
		return startProxy(cmd, filepath.Join(dir, "log"), port)
	}
}

// startProxy starts a proxy that listens on one port of 127.0.0.1, and waits
// until it does.
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
	p := &proxy{
		pid:    cmd.Process.Pid,
		stop:   func() { _ = cmd.Process.Kill(); _ = cmd.Wait() },
		settle: func() error { return cmd.Process.Signal(syscall.SIGUSR2) },
		entry:  func(string) string { return net.JoinHostPort("127.0.0.1", port) },
	}
	if err = awaitListener(p.entry("")); err == nil {
		err = checkListener(p.pid, port)
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
	for range 200 {
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// freePort returns a port of 127.0.0.1 on which nobody listens.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}

// startRelay starts the bare relay, with an entry to each of the listeners that
// tunnels go to.
func startRelay(l *lab) (*proxy, error) {
	var entries map[string]string
	c, err := startSelf(l.ctx, &entries, "relay", l.listener["echo"], l.listener["bulk"])
	if err != nil {
		return nil, err
	}
	return &proxy{
		pid:    c.cmd.Process.Pid,
		stop:   c.stop,
		settle: func() error { return c.cmd.Process.Signal(syscall.SIGUSR2) },
		entry:  func(listener string) string { return entries[listener] },
	}, nil
}

// start starts a subject.
func (l *lab) start(name string) (*proxy, error) {
	s := subjectNamed(name)
	p, err := s.start(l)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", strings.ToLower(name), err)
	}
	p.subject = s
	return p, nil
}
