//go:build linux

package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
)

// tunnel connects to the target, through the proxy with CONNECT.
func (l *load) tunnel() (*conn, error) {
	if l.session != nil {
		return l.session.tunnel(l.To)
	}
	c, err := l.dial()
	if err != nil || l.Bare {
		return c, err
	}
	if err := l.connect(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (l *load) connect(c *conn) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nProxy-Connection: Keep-Alive\r\n\r\n", l.To, l.To); err != nil {
		return err
	}
	h, err := c.readHead()
	if err != nil {
		return err
	}
	return checkStatus(h)
}

// echo sends one byte and awaits it back.
func (c *conn) echo(b byte) error {
	if _, err := c.Write([]byte{b}); err != nil {
		return err
	}
	for c.r == c.w {
		if err := c.fill(); err != nil {
			return err
		}
	}
	got := c.buf[c.r:c.w]
	if len(got) != 1 || got[0] != b {
		return fmt.Errorf("echo of %q is %.20q", b, got)
	}
	c.r = c.w
	return nil
}

// connects opens tunnels one after the other, sends a byte through each and
// closes it when the byte is back.
func (l *load) connects(w *worker) {
	for i := range w.n {
		c, err := l.tunnel()
		if err == nil {
			err = c.echo(byte(i))
			_ = c.Close()
		}
		w.done(err)
	}
}

// pings opens one tunnel and sends bytes through it, one after the other.
func (l *load) pings(w *worker) {
	c, err := l.tunnel()
	if err != nil {
		w.doneUnseen(err)
		return
	}
	defer c.Close()
	if w.n > 0 {
		w.seen.Add(1)
	}
	for i := range w.n {
		if err = c.echo(byte(i)); err != nil {
			w.doneUnseen(err)
			return
		}
		w.doneUnseen(nil)
	}
}

// beside is pings, but each is timed, and before the first other tunnels are opened
// and brought to stall.
func (l *load) beside(w *worker) {
	for range l.Stalled {
		c, err := l.stalled()
		if err != nil {
			w.doneUnseen(err)
			return
		}
		defer c.Close()
		w.seen.Add(1)
	}
	c, err := l.tunnel()
	if err != nil {
		w.doneUnseen(err)
		return
	}
	defer c.Close()
	w.seen.Add(1)
	for i := range w.n {
		start := time.Now()
		err := c.echo(byte(i))
		w.took = append(w.took, time.Since(start))
		w.doneUnseen(err)
		if err != nil {
			return
		}
	}
}

// stallTime is how long nothing more is taken from a tunnel that has stalled.
const stallTime = 500 * time.Millisecond

// stalled opens a tunnel to an echo and sends without reading, until the echo, and
// all that lies between, takes nothing more.
func (l *load) stalled() (*conn, error) {
	c, err := l.tunnel()
	if err != nil {
		return nil, err
	}
	var sent atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for block := make([]byte, 16<<10); ; {
			n, err := c.Write(block)
			sent.Add(int64(n))
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	for last := int64(-1); last != sent.Load() || last == 0; {
		last = sent.Load()
		select {
		case err := <-failed:
			_ = c.Close()
			return nil, fmt.Errorf("stalling a tunnel: %w", err)
		case <-time.After(stallTime):
		}
	}
	return c, nil
}

// bulk fetches Size bytes through each tunnel.
func (l *load) bulk(w *worker) {
	for range w.n {
		w.done(l.fetch())
	}
}

// push sends Size bytes through each tunnel.
func (l *load) push(w *worker) {
	for range w.n {
		w.done(l.send())
	}
}

// sized opens a tunnel and tells the origin how many bytes it is for.
func (l *load) sized() (*conn, error) {
	c, err := l.tunnel()
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "%d\n", l.Size); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (l *load) send() error {
	c, err := l.sized()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := writeBody(c, nil, new(pattern.Body), l.Size); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("waiting for the origin to accept %d bytes: %w", l.Size, err)
	}
	if answer[0] != accepted {
		return fmt.Errorf("answer %q, want %q", answer, accepted)
	}
	return nil
}

func (l *load) fetch() error {
	c, err := l.sized()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.readBody(new(pattern.Body), l.Size, nil); err != nil {
		return err
	}
	if c.r < c.w {
		return fmt.Errorf("%d bytes too many", c.w-c.r)
	}
	return nil
}

// hold opens N tunnels, Conns at a time, and keeps them until the parent says
// that it is enough.
func (l *load) hold() error {
	var t tally
	var mu sync.Mutex
	var held []*conn
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range l.Conns {
		wg.Go(func() {
			for range work {
				c, err := l.tunnel()
				if err == nil {
					err = c.echo('x')
					c.buf = nil
					mu.Lock()
					held = append(held, c)
					mu.Unlock()
				}
				t.done(err)
			}
		})
	}
	for range l.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	err := serveParent(t.result(), func() any { return t.result() })
	for _, c := range held {
		_ = c.Close()
	}
	return err
}
