//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/caddy-egress/egress/internal/pattern"
	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// origin is the far end of everything that is measured. It has one listener for
// each thing it does, and counts what it has seen:
//
//   - http: METHOD /size/id is answered with a body of that size that begins
//     with that id; the body of the request is checked in the same way
//   - echo: bytes come back as they are
//   - any: the same as http, on every address of 127.0.0.0/8
//   - gather, scatter: requests as for http, held back until as many are there
//     as the path says; scatter ends the connection behind the answer
//   - bulk: a line with a number is answered with so many bytes of the pattern
//   - sink: a line with a number and so many bytes of the pattern are answered
//     with one byte
//   - tls: the same as echo, within TLS
type origin struct {
	addrs map[string]string
	tls   *tls.Config

	requests, tunnels, bad atomic.Int64
	kept                   atomic.Int64 // open connections of gather
	gates                  gates
}

// tunnelListeners are those that tunnels go to.
var tunnelListeners = []string{"echo", "bulk", "sink", "tls"}

// originSeen is what an origin has counted.
type originSeen struct {
	Requests int64 // answered with 200
	Tunnels  int64 // connections for tunnels that brought what they must
	Bad      int64 // requests and connections that broke a rule
	Kept     int64 // connections of gather that are open now
}

// originMain serves until its standard input ends. For each line that it reads
// there it prints what it has seen. Its arguments are the files of a certificate
// and its key.
func originMain(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("origin wants a certificate and a key, got %d arguments", len(args))
	}
	o, err := newOrigin(testcert.Files{Cert: args[0], Key: args[1]})
	if err != nil {
		return err
	}
	return serveParent(o.addrs, func() any { return o.seen() })
}

func newOrigin(pair testcert.Files) (*origin, error) {
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	o := &origin{addrs: make(map[string]string), tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
	for name, serve := range map[string]func(net.Conn) error{
		"http":    o.serveHTTP,
		"any":     o.serveAny,
		"gather":  func(c net.Conn) error { return o.serveGathering(c, true) },
		"scatter": func(c net.Conn) error { return o.serveGathering(c, false) },
		"echo":    o.serveEcho,
		"bulk":    o.serveBulk,
		"sink":    o.serveSink,
		"tls":     o.serveTLS,
	} {
		host := "127.0.0.1"
		if name == "any" {
			host = "0.0.0.0" // there is no listening on 127.0.0.0/8 alone
		}
		ln, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		o.addrs[name] = ln.Addr().String()
		go acceptAll(ln, func(c net.Conn) {
			defer c.Close()
			if err := serve(c); err != nil {
				o.bad.Add(1)
			}
		})
	}
	return o, nil
}

// acceptAll gives each connection to serve, in a goroutine of its own.
func acceptAll(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}

func (o *origin) seen() originSeen {
	return originSeen{
		Requests: o.requests.Load(),
		Tunnels:  o.tunnels.Load(),
		Bad:      o.bad.Load(),
		Kept:     o.kept.Load(),
	}
}

// answerHead is the head of every answer, with the fields that a usual origin
// sends, up to the length.
const answerHead = "HTTP/1.1 200 OK\r\n" +
	"Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n" +
	"Server: origin\r\n" +
	"Content-Type: text/plain\r\n" +
	"Cache-Control: max-age=60\r\n" +
	"Content-Length: "

func (o *origin) serveHTTP(nc net.Conn) error {
	c := newConn(nc, largeBuffer)
	var out []byte
	for {
		h, err := c.readHead()
		if err != nil {
			return unlessGone(err)
		}
		size, id, err := parseRequestLine(h.line)
		if err != nil {
			return err
		}
		if h.length > 0 {
			if err := c.readBody(&pattern.Body{ID: id}, h.length, nil); err != nil {
				return err
			}
		}
		o.requests.Add(1)
		out = append(out[:0], answerHead...)
		out = append(strconv.AppendInt(out, size, 10), crlf2...)
		if err := writeBody(c, out, &pattern.Body{ID: id}, size); err != nil {
			return unlessGone(err)
		}
	}
}

// unlessGone is nil for errors that only say that the other side has left
// between two messages.
func unlessGone(err error) error {
	if errors.Is(err, errTruncated) || errors.Is(err, errChunked) {
		return err
	}
	var ne net.Error
	if errors.Is(err, io.EOF) || errors.As(err, &ne) {
		return nil
	}
	return err
}

// parseRequestLine reads METHOD /size/id, with or without scheme and authority
// in front of the path. The id is a copy.
func parseRequestLine(line []byte) (size int64, id []byte, err error) {
	parts := bytes.Split(line, []byte(" "))
	if len(parts) != 3 {
		return 0, nil, fmt.Errorf("request line %q", line)
	}
	path := parts[1]
	if _, rest, absolute := bytes.Cut(path, []byte("://")); absolute {
		path = rest[max(bytes.IndexByte(rest, '/'), 0):]
	}
	number, rest, _ := bytes.Cut(bytes.TrimPrefix(path, []byte("/")), []byte("/"))
	if size, err = strconv.ParseInt(string(number), 10, 64); err != nil || len(rest) != pattern.IDSize {
		return 0, nil, fmt.Errorf("request line %q", line)
	}
	return size, bytes.Clone(rest), nil
}

// smallBody is what leaves in one write with its head.
const smallBody = 64 << 10

// writeBody sends what stands in out, and behind it n bytes of a body.
func writeBody(w io.Writer, out []byte, b *pattern.Body, n int64) error {
	if n <= smallBody {
		_, err := w.Write(b.Append(out, n))
		return err
	}
	if _, err := w.Write(out); err != nil {
		return err
	}
	return b.Send(w, n)
}
