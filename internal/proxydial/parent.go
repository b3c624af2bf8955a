package proxydial

import (
	"context"
	"slices"

	"github.com/caddy-egress/egress/internal/layers"
)

// CheckTLS connects to an HTTPS proxy, finishes the TLS handshake, and closes the
// connection: it tells whether that works.
func (d *Dialer) CheckTLS(ctx context.Context) error {
	conn, err := d.open(ctx, d.tlsH1, Client{})
	if err != nil {
		return err
	}
	return layers.Close(conn)
}

// Retire closes what is idle and dials nothing ahead any more. Tunnels may still be
// asked for: a request may have chosen this proxy just before it left the
// configuration. A connection closes with the last of its tunnels.
func (d *Dialer) Retire() {
	d.standby.close()
	d.pool.retire()
}

// retire closes the connections that carry no tunnel; the others close when they are
// without one (slotFreed). A tunnel that begins meanwhile on a connection that is
// closed here asks for another one.
func (p *pool) retire() {
	p.retired.Store(true) // before the look: who comes to be idle behind it sees it
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		if c.load() == 0 {
			c.drain()
		}
	}
}
