//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/caddy-egress/egress/internal/pattern"
)

// gather has all N requests in flight at once, each on a connection of its own.
// Conns is 1: they have to come together.
func (l *load) gather(w *worker) {
	run := rand.Uint32()
	var wg sync.WaitGroup
	for i := range w.n {
		wg.Go(func() {
			c, err := l.dial()
			if err == nil {
				id := fmt.Appendf(nil, "%0*x%0*x", runSize, run, pattern.IDSize-runSize, i)
				err = l.gathered(c, w.n, id)
				defer c.Close()
			}
			w.done(err)
		})
	}
	wg.Wait()
}

// gathered asks the origin for an answer when n requests are there.
func (l *load) gathered(c *conn, n int64, id []byte) error {
	if _, err := fmt.Fprintf(c, "GET http://%s/%d/%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\n\r\n", l.To, n, id, l.To); err != nil {
		return err
	}
	h, err := c.readHead()
	if err != nil {
		return err
	}
	if err := checkStatus(h); err != nil {
		return err
	}
	if h.length != pattern.IDSize {
		return fmt.Errorf("response with length %d, want %d", h.length, pattern.IDSize)
	}
	return c.readBody(&pattern.Body{ID: id}, pattern.IDSize, nil)
}
