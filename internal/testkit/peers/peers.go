package peers

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/freeport"
	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// ErrNotInstalled says that this machine lacks the program of a peer, or cannot
// run it. The error that wraps it names the Debian package.
var ErrNotInstalled = errors.New("peer is not installed")

const (
	// startTimeout is how long a peer may take until it listens, where the
	// context allows more.
	startTimeout = 20 * time.Second
	// stopTimeout is how long a peer may take to end by itself. It has nothing
	// to save; squid would take two seconds.
	stopTimeout = 200 * time.Millisecond
	// killTimeout is how long a killed process may take to be gone.
	killTimeout = 5 * time.Second
	// pollInterval is the time between two looks at what has no event: a
	// listener, the end of a process that is not our child.
	pollInterval = 5 * time.Millisecond
	// startAttempts are made because a free port may be taken by somebody else
	// before the peer binds it.
	startAttempts = 3
)

// Peer is a running program.
type Peer struct {
	// Addr is the host:port it listens on.
	Addr string
	// RootCAs verifies its certificate, for 127.0.0.1 and localhost. It is nil
	// for a peer that does not speak TLS.
	RootCAs *x509.CertPool

	process *process
	again   func(context.Context) (*Peer, error)
	dir     string
	port    int
	unwatch func() bool // stops the watch over the context
	end     sync.Once
}

// PID is the process id of the program; its helpers are children of it.
func (p *Peer) PID() int { return p.process.pid }

// Done is closed when the program has ended, for whatever reason.
func (p *Peer) Done() <-chan struct{} { return p.process.done }

// Stop asks the program to end and waits for it; what is left of it after a
// moment is killed. It may be called more than once, and after Kill.
func (p *Peer) Stop() { p.finish(true) }

// Kill ends the program and its helpers with SIGKILL, and waits until they are
// gone. The kernel closes their connections as it pleases: with a reset where
// bytes were unread.
func (p *Peer) Kill() { p.finish(false) }

// Pause stops the program and its helpers with SIGSTOP. The kernel goes on
// accepting and acknowledging for them, but nobody answers: a black hole.
func (p *Peer) Pause() error { return p.process.pause() }

// Resume ends a Pause.
func (p *Peer) Resume() error { return p.process.resume() }

// Again starts the program anew, as it was, on the port it had. It must have been
// stopped or killed before.
func (p *Peer) Again(ctx context.Context) (*Peer, error) { return p.again(ctx) }

func (p *Peer) finish(politely bool) {
	p.end.Do(func() {
		p.unwatch()
		p.process.stop(politely)
		p.remove()
	})
}

// remove deletes what the program kept outside of its memory.
func (p *Peer) remove() {
	os.RemoveAll(p.dir)
	segments, _ := filepath.Glob("/dev/shm/" + sharedName(p.port) + "-*")
	for _, s := range segments {
		os.Remove(s)
	}
}

// sharedName begins the names of the shared memory of the peer on a port. Two
// squids with the same name would share it.
func sharedName(port int) string { return "peer" + strconv.Itoa(port) }

// program is what a peer is started from.
type program struct {
	name    string // of the executable
	debian  string // the package it is in
	tls     bool   // whether write wants a certificate
	command func(dir string, port int, files testcert.Files) (args []string, err error)
}

// locate finds the executable. Debian keeps some in sbin, which the PATH of a
// user lacks.
func (g program) locate() (string, error) {
	for _, name := range []string{g.name, "/usr/sbin/" + g.name, "/usr/local/sbin/" + g.name} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s (Debian: apt-get install %s)", ErrNotInstalled, g.name, g.debian)
}

// start runs the program with a directory of its own below dir, or below the
// directory for temporary files where dir is empty. The end of ctx kills it.
func (g program) start(ctx context.Context, dir string) (*Peer, error) {
	return g.startOn(ctx, dir, 0)
}

// startOn is start for a port, or for any that is free where it is 0.
func (g program) startOn(ctx context.Context, dir string, port int) (*Peer, error) {
	path, err := g.locate()
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		p, err := g.attempt(ctx, path, dir, port)
		if err == nil {
			p.again = func(ctx context.Context) (*Peer, error) { return g.startOn(ctx, dir, p.port) }
			p.unwatch = context.AfterFunc(ctx, p.Kill)
			return p, nil
		}
		var early *exitError
		if attempt == startAttempts || !errors.As(err, &early) || ctx.Err() != nil {
			return nil, fmt.Errorf("start %s: %w", g.name, err)
		}
	}
}

func (g program) attempt(ctx context.Context, path, parent string, port int) (_ *Peer, err error) {
	dir, err := os.MkdirTemp(parent, g.name+"-")
	if err != nil {
		return nil, err
	}
	p := &Peer{dir: dir}
	defer func() {
		if err != nil {
			p.remove()
		}
	}()
	// The user that squid becomes reads the password file in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	var files testcert.Files
	if g.tls {
		if files, p.RootCAs, err = testcert.New(dir); err != nil {
			return nil, err
		}
	}
	if p.port = port; port == 0 {
		if p.port, err = freeport.Get(); err != nil {
			return nil, err
		}
	}
	args, err := g.command(dir, p.port, files)
	if err != nil {
		return nil, err
	}
	p.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))
	if p.process, err = startProcess(path, args, dir); err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx); err != nil {
		p.process.stop(false)
		return nil, err
	}
	return p, nil
}

// awaitReady waits until the program, and not somebody who was faster, listens
// on the port and accepts.
func (p *Peer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for poll := time.NewTicker(pollInterval); ; {
		if p.process.listens(p.port) {
			poll.Stop()
			break
		}
		select {
		case <-poll.C:
		case <-p.process.done:
			poll.Stop()
			return &exitError{p.process.said()}
		case <-ctx.Done():
			poll.Stop()
			return fmt.Errorf("it does not listen on %s: %w; it said: %s", p.Addr, ctx.Err(), p.process.said())
		}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// exitError says that a program ended before it listened.
type exitError struct{ said string }

func (e *exitError) Error() string { return "it ended before it listened; it said: " + e.said }
