package integration

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// RFC 9112 §6.1, §6.3, §11.2: however a request is framed, what leaves has
// exactly one framing, and a second request hidden in the first never
// becomes one. (net/http accepts some of these; what counts is what goes on.)
func TestRequest_Smuggling_RFC9112_11_2(t *testing.T) {
	// %[1]s is a URL of the origin, %[2]s its address. A body that may be
	// read as a request asks for /smuggled.
	hidden := "GET %[1]s/smuggled HTTP/1.1\r\nHost: %[2]s\r\n\r\n"
	for _, tc := range []struct{ name, request string }{
		{"CL and TE", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden},
		{"TE and CL", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + hidden},
		{"two CL", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\n" + hidden},
		{"CL list", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 60\r\n\r\n" + hidden},
		{"CL plus", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n" + hidden},
		{"CL minus", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: -0\r\n\r\n" + hidden},
		{"CL hex", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n" + hidden},
		{"CL underscore", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent_Length: 60\r\n\r\n" + hidden},
		{"CL space before colon", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length : 60\r\n\r\n" + hidden},
		{"CL folded", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 60\r\n\r\n" + hidden},
		{"TE not chunked", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n" + hidden},
		{"TE chunked not last", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden},
		{"TE chunked twice", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden},
		{"TE xchunked", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + hidden},
		{"TE vertical tab", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n" + hidden},
		{"TE space before colon", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + hidden},
		{"TE listed in Connection", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden},
		{"CL listed in Connection", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nbody" + hidden},
		{"TE on 1.0", "POST %[1]s/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden},
		{"chunk size with LF", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n" + hidden},
		{"chunk size overflow", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" + hidden},
		{"chunk size negative", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + hidden},
		{"chunk extension with CR", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;a=\rb\r\n\r\n" + hidden},
		{"chunk extension with LF", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;a\n0\r\n\r\n" + hidden},
		{"bare CR in field", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 60\r\n\r\n" + hidden},
		{"bare LF in field", "POST %[1]s/ HTTP/1.1\nHost: x\nContent-Length: 4\n\nbody" + hidden},
		{"GET with CL body", "GET %[1]s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" + hidden},
		{"NUL in field", "POST %[1]s/ HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\nContent-Length: 4\r\n\r\nbody"},
		{"space in target", "GET %[1]s/ HTTP/1.1\r\nX:y HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"LF in target", "GET %[1]s/\nX:y HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"CRLF encoded in target", "GET %[1]s/%%0d%%0aX-Injected:%%20y HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"userinfo in target", "GET http://a:b@%[2]s/ HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"fragment in target", "GET %[1]s/#frag HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"backslash in authority", "GET http://%[2]s\\@x/ HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"Upgrade h2c", "GET %[1]s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + hidden},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				saw := make(chan *originRequest, 16)
				origin := newRawOrigin(t, func(oc *originConn) {
					for {
						saw <- oc.request()
						oc.ok("ok")
					}
				})
				raw := p.dialPlain(t)
				raw.send(fmt.Sprintf(tc.request, "http://"+origin.addr, origin.addr))
				_ = raw.CloseWrite()
				answers, err := io.ReadAll(raw.br)
				if isTimeout(err) {
					t.Errorf("no end to it: %q", answers)
				}
				first := true
				for len(saw) > 0 { // all is answered: no more will come
					r := <-saw
					lengths, codings := r.fields("Content-Length"), r.fields("Transfer-Encoding")
					if len(lengths)+len(codings) > 1 || len(codings) == 1 && codings[0] != "chunked" {
						t.Errorf("framed as Content-Length %q, Transfer-Encoding %q", lengths, codings)
					}
					for _, name := range []string{"X-Injected", "Upgrade", "Http2-Settings", "Content_Length"} {
						if v := r.fields(name); len(v) > 0 {
							t.Errorf("%s: %q", name, v)
						}
					}
					if strings.ContainsAny(strings.ReplaceAll(r.head, "\r\n", ""), "\r\n\x00") {
						t.Errorf("control bytes in %q", r.head)
					}
					// A request behind the first is one for the proxy only
					// where the first has ended by its own framing; then it
					// must have come out as a request of its own, with our Via.
					if !first && len(r.fields("Via")) != 1 {
						t.Errorf("a request of the client's making reached the origin: %q", r.head)
					}
					first = false
				}
			})
		})
	}
}

// Requests one behind the other on one connection are answered in order, each
// with its own body.
func TestRequest_Pipelined_RFC9112_9_3_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				r := oc.request()
				oc.ok(r.target + " " + r.body)
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			raw := p.dialH1(t, kind)
			var all strings.Builder
			for i := range 10 {
				fmt.Fprintf(&all, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbody%d", origin.url(fmt.Sprintf("/%d", i)), i)
			}
			raw.send(all.String())
			for i := range 10 {
				if resp, want := raw.response("POST"), fmt.Sprintf("/%d body%d", i, i); resp.body != want {
					t.Errorf("answer %d is %d %q, want %q", i, resp.StatusCode, resp.body, want)
				}
			}
		})
	})
}
