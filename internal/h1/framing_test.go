package h1

import (
	"testing"
	"time"
)

// TestFraming has the framing by method and status (RFC 9112 §6.3).
func TestFraming(t *testing.T) {
	const cl, te = "Content-Length: 5", "Transfer-Encoding: chunked"
	for _, tc := range []struct {
		method, line, field string
		want                Framing
		length              int64
	}{
		{"GET", okLine, cl, ByLength, 5},
		{"GET", okLine, "Content-Length: 0", ByLength, 0},
		{"GET", okLine, te, ByChunks, -1},
		{"GET", okLine, "", UntilClose, -1},
		{"GET", "HTTP/1.0 200 OK", cl, ByLength, 5},
		{"GET", "HTTP/1.0 200 OK", "", UntilClose, -1},
		{"POST", okLine, cl, ByLength, 5},
		{"OPTIONS", okLine, "", UntilClose, -1},
		{"head", okLine, cl, ByLength, 5}, // methods are case-sensitive
		{"GET", "HTTP/1.1 205 Reset Content", cl, ByLength, 5},
		{"GET", "HTTP/1.1 206 Partial Content", te, ByChunks, -1},
		{"GET", "HTTP/1.1 404 Not Found", cl, ByLength, 5},
		{"GET", "HTTP/1.1 999 x", te, ByChunks, -1},

		{"HEAD", okLine, cl, NoBody, 5},
		{"HEAD", okLine, te, NoBody, -1},
		{"HEAD", okLine, "", NoBody, -1},
		{"HEAD", "HTTP/1.1 404 Not Found", cl, NoBody, 5},
		{"HEAD", "HTTP/1.0 200 OK", cl, NoBody, 5},
		{"GET", "HTTP/1.1 204 No Content", "", NoBody, -1},
		{"GET", "HTTP/1.1 204 No Content", cl, NoBody, 5},
		{"GET", "HTTP/1.1 204 No Content", te, NoBody, -1},
		{"GET", "HTTP/1.1 304 Not Modified", "", NoBody, -1},
		{"GET", "HTTP/1.1 304 Not Modified", cl, NoBody, 5},
		{"GET", "HTTP/1.1 304 Not Modified", te, NoBody, -1},
		{"GET", "HTTP/1.1 100 Continue", cl, NoBody, 5},
		{"GET", "HTTP/1.1 199 x", te, NoBody, -1},

		// One number however often, and in whatever spelling
		{"GET", okLine, "Content-Length: 5, 5", ByLength, 5},
		{"GET", okLine, "Content-Length: 5,5 ,\t5", ByLength, 5},
		{"GET", okLine, "Content-Length: 5, 05", ByLength, 5},
		{"GET", okLine, "Content-Length: 5\r\nContent-Length: 5", ByLength, 5},
		{"GET", okLine, "Content-Length: 5\r\nContent-Length: 5, 5", ByLength, 5},
		{"GET", okLine, "Content-Length: 0005", ByLength, 5},
		{"GET", okLine, "Content-Length:5\t", ByLength, 5},
		{"GET", okLine, "content-length: 5", ByLength, 5},
		{"GET", okLine, "Content-Length: 9223372036854775807", ByLength, 1<<63 - 1},
		{"GET", okLine, "transfer-encoding: CHUNKED", ByChunks, -1},
		{"GET", okLine, "Transfer-Encoding: \t Chunked ", ByChunks, -1},
		{"GET", "HTTP/1.2 200 OK", te, ByChunks, -1},
		{"GET", okLine, "Content-Length-X: 7", UntilClose, -1},
	} {
		head := lines(tc.line, tc.field)
		if tc.field == "" {
			head = lines(tc.line)
		}
		c := begun(sendsAndStays(head))
		_, resp, err := framed(c, tc.method)
		if err != nil {
			t.Errorf("%s %q: %v", tc.method, head, err)
			continue
		}
		if resp.Framing != tc.want || resp.Length != tc.length {
			t.Errorf("%s %q: framing %d, length %d; want %d, %d", tc.method, head, resp.Framing, resp.Length, tc.want, tc.length)
		}
		if want := tc.want == NoBody || tc.want == ByLength && tc.length == 0; c.BodyDone() != want {
			t.Errorf("%s %q: body done is %v", tc.method, head, c.BodyDone())
		}
	}
}

// A 204 that says that it has a body is not believed to have ended: the body may still come.
func TestBodyOfA204(t *testing.T) {
	for field, want := range map[string]bool{"X: y": true, "Content-Length: 0": true, "Content-Length: 5": false, "Transfer-Encoding: chunked": false} {
		head := lines("HTTP/1.1 204 No Content", field)
		c := begun(sendsAndStays(head))
		if _, _, err := framed(c, "GET"); err != nil || !c.BodyDone() {
			t.Errorf("%q: %v", head, err)
		}
		if got := c.End(); got != want {
			t.Errorf("%q: reusable is %v", head, got)
		}
	}
}

// TestKeepAlive: whether another exchange may follow is told by version,
// Connection and framing alone (RFC 9112 §9.3).
func TestKeepAlive(t *testing.T) {
	const v10, v11 = "HTTP/1.0 200 OK", "HTTP/1.1 200 OK"
	for _, tc := range []struct {
		line   string
		fields []string
		want   bool
	}{
		{v11, nil, true},
		{v11, []string{"Connection: close"}, false},
		{v11, []string{"Connection: CLOSE"}, false},
		{v11, []string{"connection: Close"}, false},
		{v11, []string{"Connection: keep-alive"}, true},
		{v11, []string{"Connection: x, close"}, false},
		{v11, []string{"Connection: close ,x"}, false},
		{v11, []string{"Connection: ,\tclose\t,"}, false},
		{v11, []string{"Connection: x", "Connection: close"}, false},
		{v11, []string{"Connection: close", "Connection: keep-alive"}, false},
		{v11, []string{"Connection: keep-alive, close"}, false},
		{v11, []string{"Connection: closed"}, true},
		{v11, []string{"Connection: x-close"}, true},
		{v11, []string{"Connection: close x"}, true},
		{v11, []string{"Connection: clo\u017fe"}, true}, // a long s is no s
		{v11, []string{"Connection:"}, true},
		{v11, []string{"Proxy-Connection: close"}, true},
		{v11, []string{"Keep-Alive: timeout=5"}, true},
		{v10, nil, false},
		{v10, []string{"Connection: keep-alive"}, true},
		{v10, []string{"Connection: Keep-Alive"}, true},
		{v10, []string{"Connection: x, keep-alive"}, true},
		{v10, []string{"Connection: \u212aeep-alive"}, false}, // a Kelvin sign is no k
		{v10, []string{"Connection: keep-alive", "Connection: close"}, false},
		{v10, []string{"Connection: x"}, false},
		{v10, []string{"Keep-Alive: timeout=5"}, false},
		{v10, []string{"Proxy-Connection: keep-alive"}, false},
		{"HTTP/1.2 200 OK", nil, true},
	} {
		for body, want := range map[string]bool{"Content-Length: 1": tc.want, "X-Until: close": false} {
			head := lines(append([]string{tc.line, body}, tc.fields...)...)
			c := begun(sends(head + "b"))
			if _, _, err := framed(c, "GET"); err != nil {
				t.Fatalf("%q: %v", head, err)
			}
			if got, err := readAll(t, c, 10); got != "b" || err != nil {
				t.Errorf("%q: body %q, %v", head, got, err)
			}
			if got := c.End(); got != want {
				t.Errorf("%q: reusable is %v", head, got)
			}
		}
	}
}

// TestKeepAliveOfOneResponse: what one response said does not hold for the next.
func TestKeepAliveOfOneResponse(t *testing.T) {
	c := NewConn(sendsAndStays(
		lines("HTTP/1.0 200 OK", "Content-Length: 0", "Connection: keep-alive"),
		lines("HTTP/1.0 200 OK", "Content-Length: 0"),
	))
	for i, want := range []bool{true, false} {
		c.Begin()
		if _, _, err := framed(c, "GET"); err != nil {
			t.Fatal(err)
		}
		if got := c.End(); got != want {
			t.Errorf("response %d: reusable is %v", i, got)
		}
	}
}

func TestKeepAliveTimeout(t *testing.T) {
	for _, tc := range []struct {
		fields []string
		want   time.Duration
	}{
		{nil, 0},
		{[]string{"timeout=5"}, 5 * time.Second},
		{[]string{"timeout=5, max=100"}, 5 * time.Second},
		{[]string{"max=100, timeout=5"}, 5 * time.Second},
		{[]string{"max=100,Timeout=5"}, 5 * time.Second},
		{[]string{`timeout="5"`}, 5 * time.Second},
		{[]string{"timeout = 5"}, 5 * time.Second},
		{[]string{"timeout=5", "max=100"}, 5 * time.Second},
		{[]string{"max=100", "timeout=5"}, 5 * time.Second},
		{[]string{"timeout=9", "timeout=5"}, 5 * time.Second}, // the shorter one
		{[]string{"timeout=5", "timeout=9"}, 5 * time.Second},
		{[]string{"timeout=2147483647"}, 2147483647 * time.Second},
		{[]string{"timeout=2147483648"}, 0},
		{[]string{"timeout=99999999999999999999"}, 0},
		{[]string{"timeout=0"}, 0},
		{[]string{"timeout=-5"}, 0},
		{[]string{"timeout=5s"}, 0},
		{[]string{"timeout="}, 0},
		{[]string{"timeout"}, 0},
		{[]string{"5"}, 0},
		{[]string{"timeouts=5"}, 0},
		{[]string{""}, 0},
	} {
		head := []string{okLine, "Content-Length: 0"}
		for _, f := range tc.fields {
			head = append(head, "Keep-Alive: "+f)
		}
		_, resp, err := framed(begun(sendsAndStays(lines(head...))), "GET")
		if err != nil || resp.KeepAlive != tc.want {
			t.Errorf("%q: %s, %v; want %s", tc.fields, resp.KeepAlive, err, tc.want)
		}
	}
}

func TestHasToken(t *testing.T) {
	for _, tc := range []struct {
		list, token string
		want        bool
	}{
		{"close", "close", true},
		{"Close", "close", true},
		{"close", "Close", true},
		{"a, close", "close", true},
		{"close\t , a", "close", true},
		{"a,,close,", "close", true},
		{"", "close", false},
		{"closes", "close", false},
		{"close close", "close", false},
		{"a;close", "close", false},
		{"\"close\"", "close", false},
		{"abcde", "close", false},
		{"100-Continue", "100-continue", true},
		{"[x]", "{X}", false}, // 0x20 apart, but no letters
	} {
		if got := HasToken(tc.list, tc.token); got != tc.want {
			t.Errorf("HasToken(%q, %q) is %v", tc.list, tc.token, got)
		}
	}
}

// TestSurplus: bytes behind the response end the connection, whether they are at
// hand with it (here) or come later (see TestAlive).
func TestSurplus(t *testing.T) {
	for _, tc := range []struct{ name, method, response, body string }{
		{"length", "GET", lines(okLine, "Content-Length: 2") + "ok", "ok"},
		{"length 0", "GET", lines(okLine, "Content-Length: 0"), ""},
		{"chunked", "GET", lines(okLine, "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n", "ok"},
		{"chunked with a trailer", "GET", lines(okLine, "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\nA: b\r\n\r\n", "ok"},
		{"HEAD", "HEAD", lines(okLine, "Content-Length: 2"), ""},
		{"204", "GET", lines("HTTP/1.1 204 No Content"), ""},
		{"304", "GET", lines("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked"), ""},
	} {
		for _, surplus := range []string{"", "x", "\r\n", "ok", lines(okLine, "Content-Length: 0")} {
			for _, size := range readSizes[:6] {
				nc := sendsAndStays(tc.response + surplus)
				c := begun(nc)
				if _, _, err := framed(c, tc.method); err != nil {
					t.Fatalf("%s: %v", tc.name, err)
				}
				if got, err := readAll(t, c, size); got != tc.body || err != nil {
					t.Errorf("%s: body %q, %v", tc.name, got, err)
				}
				if left := c.Buffered(); left != len(surplus) {
					t.Errorf("%s: %d bytes left of %q", tc.name, left, surplus)
				}
				if nc.ends != 0 {
					t.Errorf("%s: waits for more than the response", tc.name)
				}
				if got, want := c.End(), surplus == ""; got != want {
					t.Errorf("%s, surplus %q: reusable is %v", tc.name, surplus, got)
				}
			}
		}
	}
}
