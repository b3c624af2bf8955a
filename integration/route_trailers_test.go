package integration

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// What a route takes away or sets does not come, or leave, in a trailer section either.
func TestRoute_Trailers(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + `route {
			to direct
			header_down -X-Secret
			header_down X-Set ours
			header_down X-Text secret x
			header_up -X-Req
			header_up X-Up ours
		}
		hide_trace
		`})
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				oc.head()
				var body strings.Builder
				for !strings.HasSuffix(body.String(), "\r\n0\r\n\r\n") && !(strings.Contains(body.String(), "\r\n0\r\n") && strings.HasSuffix(body.String(), "\r\n\r\n")) {
					line, err := oc.br.ReadString('\n')
					if body.WriteString(line); err != nil {
						return
					}
				}
				if b := strings.ToLower(body.String()); strings.Contains(b, "x-req") || strings.Contains(b, "x-up") || strings.Contains(b, "traceparent") || !strings.Contains(b, "x-sum: 1") {
					oc.t.Errorf("the body left as %q", b)
				}
				oc.send("HTTP/1.1 200 OK\r\nTrailer: X-Secret, X-Set, X-Text, X-Kept\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n" +
					"2\r\nok\r\n0\r\nX-Secret: s\r\nX-Set: theirs\r\nX-Text: a secret\r\nX-Kept: k\r\nX-Hop: h\r\n\r\n")
			}
		})
		for _, kind := range []string{"h1", "h2"} { // on HTTP/3, a client's trailers are not seen
			r := p.client(t, kind).newRequest(t, "POST", origin.url("/"), struct{ io.Reader }{strings.NewReader("body")})
			r.Header.Set("TE", "trailers")
			r.Trailer = http.Header{"X-Req": {"r"}, "X-Up": {"u"}, "Traceparent": {"t"}, "X-Sum": {"1"}}
			resp := p.client(t, kind).do(t, r)
			resp.expect(t, 200, "ok")
			for name, want := range map[string]string{"X-Secret": "", "X-Set": "", "X-Text": "a x", "X-Kept": "k", "X-Hop": ""} {
				if got := resp.Trailer.Get(name); got != want {
					t.Errorf("%s: trailer %s is %q, want %q", kind, name, got, want)
				}
			}
			if got := resp.Header.Values("X-Set"); len(got) != 1 || got[0] != "ours" {
				t.Errorf("%s: X-Set %q", kind, got)
			}
		}
	})
}

// What a route takes away, net/http does not make up.
func TestRoute_NothingMadeUp(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "route {\n to direct\n header_down -Content-Type\n header_down -Date\n}\n"})
		for _, date := range []string{"", "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n"} {
			origin, _ := recorder(t, "HTTP/1.1 200 OK\r\n"+date+"Content-Type: application/octet-stream\r\nContent-Length: 6\r\n\r\n<html>")
			eachClient(t, p, func(t *testing.T, c *client) {
				resp := c.get(t, origin.url("/"))
				resp.expect(t, 200, "<html>")
				if got := resp.Header["Content-Type"]; len(got) > 0 {
					t.Errorf("Content-Type %q", got)
				}
				if got := resp.Header["Date"]; len(got) > 0 {
					t.Errorf("Date %q", got)
				}
			})
		}
	})
}
