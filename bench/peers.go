//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/caddy-egress/egress/internal/testkit/peers"
)

// The programs are started by package peers. What is added here lifts limits
// that a load of the benchmark would reach.

// asProxy is a peer as something to measure.
func asProxy(p *peers.Peer, err error) (*proxy, error) {
	if err != nil {
		return nil, err
	}
	return &proxy{
		pids:  []int{p.PID()},
		stop:  p.Kill,
		entry: func(string) string { return p.Addr },
	}, nil
}

func startSquid(l *lab) (*proxy, error) {
	return asProxy(peers.StartSquid(l.ctx, l.dir, peers.SquidOptions{Config: []string{
		"max_filedescriptors 20000",
		"server_idle_pconn_timeout 5 minutes", // else the idle ones would leave while they are counted
		"client_idle_pconn_timeout 5 minutes",
	}}))
}

func startTrafficServer(l *lab) (*proxy, error) {
	return asProxy(peers.StartTrafficServer(l.ctx, l.dir, peers.TrafficServerOptions{Config: []string{
		"CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 300",
		"CONFIG proxy.config.http.keep_alive_no_activity_timeout_out INT 300",
		"CONFIG proxy.config.http.transaction_no_activity_timeout_in INT 300",
		"CONFIG proxy.config.http.transaction_no_activity_timeout_out INT 300",
	}}))
}

func startTinyproxy(l *lab) (*proxy, error) {
	return asProxy(peers.StartTinyproxy(l.ctx, l.dir, peers.TinyproxyOptions{Config: []string{"MaxClients 8192"}}))
}

// startNghttpx starts the usual way to give Squid clients on HTTP/2. The cost
// of both counts.
func startNghttpx(l *lab) (*proxy, error) {
	backend, err := startSquid(l)
	if err != nil {
		return nil, err
	}
	p, err := asProxy(peers.StartNghttpx(l.ctx, l.dir, peers.NghttpxOptions{Backend: backend.entry(""), MaxStreams: 1000}))
	if err != nil {
		backend.stop()
		return nil, err
	}
	p.pids = append(p.pids, backend.pids...)
	return p.and(backend), nil
}

func startGoproxy(l *lab) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return startProxy(command(l.ctx, l.goproxy, "127.0.0.1:"+port), filepath.Join(l.dir, "goproxy.log"), port)
}

// noGoproxy builds goproxy, which is a module of its own.
func noGoproxy(l *lab) error {
	binary := filepath.Join(l.dir, "goproxy.bin")
	if err := l.build(binary, filepath.Join(l.source, "bench", "goproxy"), "."); err != nil {
		return err
	}
	l.goproxy = binary
	return nil
}

// startRelay starts the bare relay, with an entry to each of the listeners that
// tunnels go to.
func startRelay(l *lab) (*proxy, error) {
	var entries map[string]string
	args := []string{"relay"}
	for _, name := range tunnelListeners {
		args = append(args, l.listener[name])
	}
	c, err := startSelf(l.ctx, &entries, args...)
	if err != nil {
		return nil, err
	}
	return &proxy{
		pids:   []int{c.cmd.Process.Pid},
		stop:   c.stop,
		settle: func() error { return c.cmd.Process.Signal(syscall.SIGUSR2) },
		entry:  func(listener string) string { return entries[listener] },
	}, nil
}

// debianPackages are the packages of the programs that are measured.
var debianPackages = map[string]string{
	"squid":          "squid",
	"traffic_server": "trafficserver",
	"tinyproxy":      "tinyproxy-bin",
	"nghttpx":        "nghttp2-proxy",
}

// lookPath finds a program. Debian keeps some where the PATH of a user does not
// lead.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	return path, err
}

// missing says which of the programs is not installed.
func missing(programs ...string) func(*lab) error {
	return func(*lab) error {
		for _, program := range programs {
			if _, err := lookPath(program); err != nil {
				return fmt.Errorf("%s is not installed (Debian: %s; or run with -install)", program, debianPackages[program])
			}
		}
		return nil
	}
}

// install installs the programs that are missing, as root on Debian.
func install(ctx context.Context) error {
	var packages []string
	for program, name := range debianPackages {
		if _, err := lookPath(program); err != nil {
			packages = append(packages, name)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	if os.Geteuid() != 0 {
		return errors.New("-install needs root: apt-get install " + strings.Join(packages, " "))
	}
	progress("installing " + strings.Join(packages, " "))
	lock := "DPkg::Lock::Timeout=300"
	for _, args := range [][]string{
		{"-o", lock, "-qq", "update"},
		append([]string{"-o", lock, "-qq", "-y", "--no-install-recommends", "install"}, packages...),
	} {
		apt := command(ctx, "apt-get", args...)
		apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		apt.Stdout, apt.Stderr = os.Stderr, os.Stderr
		if err := apt.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}
