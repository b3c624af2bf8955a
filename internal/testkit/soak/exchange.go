package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"

	"github.com/caddy-egress/egress/internal/pattern"
)

// host is the name that a request goes to: the proxy's routes tell by it which way
// it leaves.
func (q request) host() string {
	if q.parents {
		return parentsHost
	}
	return directHost
}

// exchange makes a request, and checks that the answer is the one to it, and is
// whole or broken off so that the client sees it.
func (l *lab) exchange(ctx context.Context, c *client, q request) outcome {
	r, err := l.newRequest(ctx, q)
	if err != nil {
		return failed(false, err)
	}
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		return failed(false, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == http.StatusInternalServerError {
			l.broken.add("%v: the proxy takes the blame: %v", q, answeredWith(resp).err)
		}
		return answeredWith(resp)
	}
	if id := resp.Header.Get("X-Id"); id != q.id() {
		l.broken.add("%v: got the answer to %q", q, id)
		return outcome{class: "wrong answer", answered: true}
	}
	if got := resp.Header.Get("X-Received"); got != strconv.FormatInt(q.upload, 10) {
		l.broken.add("%v: success, but the origin has received %s bytes", q, got)
	}
	size := q.size
	if q.method == http.MethodHead {
		size = 0
		if !q.chunked && resp.ContentLength != q.size {
			l.broken.add("%v: Content-Length %d", q, resp.ContentLength)
		}
	}
	n, err := readBody(resp.Body, q.id())
	switch {
	case errors.Is(err, errWrongBytes):
		l.broken.add("%v: %v", q, err)
	case err != nil:
		return failed(true, err)
	case n != size:
		l.broken.add("%v: looks whole after %d bytes", q, n)
	}
	return outcome{class: whole, answered: true}
}

func (l *lab) newRequest(ctx context.Context, q request) (*http.Request, error) {
	listener := l.origin.httpAddr
	if q.rude != polite {
		listener = l.origin.rudeAddr
	}
	_, port, _ := net.SplitHostPort(l.target(q, listener, l.links.origin))
	url := fmt.Sprintf("http://%s:%s/x/%s?size=%d", q.host(), port, q.id(), q.size)
	if q.chunked {
		url += "&chunked=true"
	}
	if q.pause {
		url += "&pause=true"
	}
	if q.rude != polite {
		url += fmt.Sprintf("&rude=%d", q.rude)
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil }, // or a few are too many
		})
	}
	var body io.Reader
	if q.upload > 0 {
		b := &pattern.Body{ID: []byte(q.id())}
		body = bytes.NewReader(b.Append(nil, q.upload))
	}
	r, err := http.NewRequestWithContext(ctx, q.method, url, body)
	if err != nil {
		return nil, err
	}
	if q.uploadChunked && body != nil {
		r.ContentLength = -1
	}
	r.GetBody = nil // the client must not repeat what the proxy may not
	r.Close = q.last
	r.Header.Set("User-Agent", "")
	r.Header.Set("X-Upload", strconv.FormatInt(q.upload, 10))
	return r, nil
}

// target is where a request goes to: a listener of the origin, or the link to it.
func (l *lab) target(q request, listener string, bad *link) string {
	if q.badOrigin {
		return bad.addr
	}
	return listener
}
