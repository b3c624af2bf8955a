//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
)

// gates hold requests back until as many of a run are there as they want to be.
type gates struct {
	mu   sync.Mutex
	runs map[string]*gate
}

type gate struct {
	waiting int64
	open    chan struct{}
}

// gateTimeout is when a run is not going to be complete: a proxy holds the
// missing requests back, or has refused them.
const gateTimeout = 30 * time.Second

// pass blocks until n callers of the run are within it.
func (g *gates) pass(run string, n int64) error {
	g.mu.Lock()
	if g.runs == nil {
		g.runs = make(map[string]*gate)
	}
	at := g.runs[run]
	if at == nil {
		at = &gate{open: make(chan struct{})}
		g.runs[run] = at
	}
	if at.waiting++; at.waiting >= n {
		close(at.open)
		delete(g.runs, run)
	}
	g.mu.Unlock()
	select {
	case <-at.open:
		return nil
	case <-time.After(gateTimeout):
		return errIncomplete
	}
}

var errIncomplete = errors.New("not all requests of a run have come")

// runSize is how many bytes of the id of a held-back request tell its run.
const runSize = 8

// serveGathering answers requests METHOD /n/id with the id, n at a time. As all
// of them are in flight together, a proxy needs n connections for them, and is
// left with so many if it keeps them.
func (o *origin) serveGathering(nc net.Conn, keep bool) error {
	fields := "\r\nConnection: close"
	if keep {
		fields = ""
		o.kept.Add(1)
		defer o.kept.Add(-1)
	}
	c := newConn(nc, smallBuffer)
	for {
		h, err := c.readHead()
		if err != nil {
			return unlessGone(err)
		}
		n, id, err := parseRequestLine(h.line)
		if err != nil {
			return err
		}
		o.requests.Add(1)
		if err := o.gates.pass(string(id[:runSize]), n); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "%s%d%s\r\n\r\n%s", answerHead, pattern.IDSize, fields, id); err != nil {
			return unlessGone(err)
		}
		if !keep {
			return nil
		}
	}
}

// serveAny is serveHTTP for who comes by way of loopback: its listener is open
// to others as well.
func (o *origin) serveAny(c net.Conn) error {
	if at, ok := c.LocalAddr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		return nil
	}
	return o.serveHTTP(c)
}
