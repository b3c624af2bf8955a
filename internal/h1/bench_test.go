package h1

import (
	"io"
	"strings"
	"testing"
)

// usualFields are those of a usual response, in the spelling of usual origins.
var usualFields = []string{
	"Server: nginx/1.27.3",
	"Date: Tue, 15 Nov 2024 08:12:31 GMT",
	"Content-Type: text/html; charset=utf-8",
	"Connection: keep-alive",
	"Keep-Alive: timeout=60",
	"Vary: Accept-Encoding",
	"ETag: \"5f3c-61a2b3c4d5e6f\"",
	"Cache-Control: public, max-age=3600",
	"Strict-Transport-Security: max-age=31536000; includeSubDomains",
	"X-Frame-Options: SAMEORIGIN",
}

// lowerCase is how other origins spell the names of fields.
func lowerCase(fields []string) (l []string) {
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		l = append(l, strings.ToLower(name)+":"+value)
	}
	return l
}

// response puts a response of the usual fields together.
func response(fields []string, framing, body string) string {
	return lines(append([]string{okLine, framing}, fields...)...) + body
}

// replay is a connection whose peer sends the same response over and over.
type replay struct {
	scriptConn
	one [1]scriptStep
}

func (r *replay) again(text string) {
	r.one[0].data = text
	r.script = r.one[:]
}

// exchange is one head and body, as the proxy does it.
func exchange(b testing.TB, c *Conn, r *replay, h *Head, text string, p []byte) {
	r.again(text)
	c.Begin()
	if err := c.ReadHead(h, testLimit); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Frame(h, "GET"); err != nil {
		b.Fatal(err)
	}
	for {
		_, err := c.Body().Read(p)
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if !c.End() {
		b.Fatal("not reusable")
	}
}

// benchResponses are 1 KiB in both framings, and chunks as small as those of an
// event stream.
var benchResponses = []struct {
	name, text string
}{
	{"length", response(usualFields, "Content-Length: 1024", pattern(1024))},
	{"length, lower-case names", response(lowerCase(usualFields), "content-length: 1024", pattern(1024))},
	{"chunked", response(usualFields, "Transfer-Encoding: chunked", "400\r\n"+pattern(1024)+"\r\n0\r\n\r\n")},
	{"64 chunks", response(usualFields, "Transfer-Encoding: chunked", strings.Repeat("10\r\n"+pattern(16)+"\r\n", 64)+"0\r\n\r\n")},
}

func BenchmarkExchange(b *testing.B) {
	for _, bc := range benchResponses {
		b.Run(bc.name, func(b *testing.B) {
			r := new(replay)
			c, h, p := NewConn(r), &Head{Fields: make([]Field, 0, 24)}, make([]byte, 32<<10)
			b.ReportAllocs()
			b.SetBytes(1024)
			for b.Loop() {
				exchange(b, c, r, h, bc.text, p)
			}
		})
	}
}
