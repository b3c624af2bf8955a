package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/pattern"
)

// rudeness is what an origin, or a client, does against the rules.
type rudeness uint8

const (
	polite        rudeness = iota
	brokenChunk            // the first chunk of the body, in the packet of the head, is none
	interimStorm           // a hundred 1xx responses before the final one
	youngClose             // the connection ends behind a whole response that promised to keep it
	halfHead               // the connection ends within the head
	malformedHead          // of the request: it fits no origin
	rudeKinds
)

func (r rudeness) String() string {
	return [...]string{"polite", "broken first chunk", "1xx storm", "young close", "half a head", "malformed request"}[r]
}

// ends reports whether a request ended as it must: a proxy makes up for what it can, says
// 502 of what it cannot, and passes on nothing that is malformed.
func (r rudeness) ends(o outcome) bool {
	switch r {
	case brokenChunk, halfHead:
		return strings.HasPrefix(o.class, "502")
	case malformedHead:
		return strings.HasPrefix(o.class, "400")
	}
	return o.class == whole
}

// serveRudely is an origin whose answers to /x/id are as its path says.
func (o *origin) serveRudely(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		id := strings.TrimPrefix(r.URL.Path, "/x/")
		kind, err := strconv.Atoi(r.FormValue("rude"))
		if err != nil {
			o.broken.add("%s %s at the rude origin", r.Method, r.URL)
			return
		}
		o.countPost(r.Method, id)
		received, err := readBody(r.Body, id)
		if err != nil {
			return
		}
		const head = "HTTP/1.1 200 OK\r\nX-Id: %s\r\nX-Received: %d\r\n"
		switch rudeness(kind) {
		case brokenChunk:
			_, err = fmt.Fprintf(c, head+"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", id, received)
		case halfHead:
			_, _ = fmt.Fprintf(c, head+"Content-Le", id, received)
			return
		case interimStorm:
			_, err = fmt.Fprint(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n", 100))
		}
		if err != nil {
			return
		}
		if k := rudeness(kind); k == interimStorm || k == youngClose {
			size, _ := strconv.ParseInt(r.FormValue("size"), 10, 64)
			body := (&pattern.Body{ID: []byte(id)}).Append(nil, size)
			if _, err = fmt.Fprintf(c, head+"Content-Length: %d\r\n\r\n%s", id, received, size, body); err != nil || k == youngClose {
				return
			}
		}
	}
}

// malformed makes a request that passes an HTTP server, and that no origin can be asked.
func (l *lab) malformed(ctx context.Context, q request) outcome {
	c, err := l.clients["h1"].dial(ctx)
	if err != nil {
		return failed(false, err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	host := net.JoinHostPort(q.host(), port(l.origin.rudeAddr))
	if _, err := fmt.Fprintf(c, "GET http://%s/#%s HTTP/1.1\r\nHost: %[1]s\r\nConnection: close\r\n\r\n", host, q.id()); err != nil {
		return failed(false, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return failed(false, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return answeredWith(resp)
}
