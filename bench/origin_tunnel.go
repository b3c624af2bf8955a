//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/caddy-egress/egress/internal/pattern"
)

func (o *origin) serveEcho(c net.Conn) error {
	var buf [64]byte
	for first := true; ; first = false {
		n, err := c.Read(buf[:])
		if n == 0 {
			return unlessGone(err)
		}
		if first {
			o.tunnels.Add(1)
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return unlessGone(err)
		}
	}
}

func (o *origin) serveTLS(nc net.Conn) error {
	c := tls.Server(nc, o.tls)
	if err := c.Handshake(); err != nil {
		return err
	}
	return o.serveEcho(c)
}

func (o *origin) serveBulk(c net.Conn) error {
	var n int64
	if _, err := fmt.Fscanln(c, &n); err != nil {
		return unlessGone(err)
	}
	o.tunnels.Add(1)
	return unlessGone(writeBody(c, nil, new(pattern.Body), n))
}

// accepted is what sink answers when it has all bytes, and they are right.
const accepted = '+'

func (o *origin) serveSink(nc net.Conn) error {
	var n int64
	if _, err := fmt.Fscanln(nc, &n); err != nil { // reads byte by byte
		return unlessGone(err)
	}
	if err := newConn(nc, largeBuffer).readBody(new(pattern.Body), n, nil); err != nil {
		return err
	}
	o.tunnels.Add(1)
	_, err := nc.Write([]byte{accepted})
	return unlessGone(err)
}
