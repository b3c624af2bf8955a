package proxydial

import (
	"context"
	"slices"
)

// CheckTLS connects to an HTTPS proxy, finishes the TLS handshake, and closes the
// connection: it tells whether that works.
func (d *Dialer) CheckTLS(ctx context.Context) error {
	conn, err := d.open(ctx, d.tlsH1, Client{})
	if err != nil {
		return err
	}
	return conn.Close()
}

// Retire closes what is idle and dials nothing ahead any more. Tunnels may still be
// asked for: a request may have chosen this proxy just before it left the
// configuration. What they leave behind closes after IdleTimeout.
func (d *Dialer) Retire() {
	d.standby.close()
	d.pool.retire()
}

// retire closes the connections that carry no tunnel.
func (p *pool) retire() {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		if c.load() == 0 {
			c.drain()
		}
	}
}
