package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"testing"
)

// outcome is what reading a response has brought.
type outcome struct {
	status   int
	framing  Framing
	length   int64
	fields   http.Header
	body     string
	trailer  http.Header
	final    int // where the final head begins
	consumed int // bytes of the message
	reusable bool
	err      string
}

func headerOf(fields []Field) http.Header {
	h := make(http.Header)
	for _, f := range fields {
		h[f.Name] = append(h[f.Name], f.Value)
	}
	return h
}

// pieces cuts data as the plan says: each byte is the length of a piece.
func pieces(data string, plan []byte) (cut []string) {
	for i := 0; data != "" && len(plan) > 0; i++ {
		n := min(int(plan[i%len(plan)])+1, len(data))
		cut, data = append(cut, data[:n]), data[n:]
	}
	return append(cut, data)
}

// ours reads a response in pieces, with reads of the given size, and then ends
// the exchange.
func ours(t *testing.T, data, method string, plan []byte, size int) (o outcome) {
	nc := sends(pieces(data, plan)...)
	c := begun(nc)
	position := func() int { return len(data) - nc.unread() - (c.w - c.r) }
	var h Head
	for {
		o.final = position()
		if err := c.ReadHead(&h, testLimit); err != nil {
			o.err = err.Error()
			return o
		}
		if h.Status >= 200 {
			break
		}
	}
	resp, err := c.Frame(&h, method)
	if err != nil {
		o.err = err.Error()
		return o
	}
	o.status, o.framing, o.length, o.fields = h.Status, resp.Framing, resp.Length, headerOf(h.Fields)
	if o.body, err = readAll(t, c, size); err != nil {
		o.err = err.Error()
	}
	o.trailer, o.consumed = headerOf(c.Trailer()), position()
	surplus := c.Buffered()
	o.reusable = c.End()
	if surplus > 0 && o.reusable {
		t.Errorf("%d bytes of surplus, but reusable", surplus)
	}
	return o
}

// unlikeNetHTTP tells where net/http refuses what we accept, with the reason why
// we may. Everything else that we accept it must accept, too.
func unlikeNetHTTP(o *outcome) string {
	lengths := o.fields["Content-Length"]
	for _, v := range lengths {
		if v != lengths[0] || strings.Contains(v, ",") {
			return "equal numbers as a list, or in two spellings, are one Content-Length (RFC 9112 §6.3 allows to take them)"
		}
	}
	if o.fields["Trailer"] != nil {
		return "net/http refuses framing fields named in Trailer, which we never act on"
	}
	return ""
}

// chunksUnlikeGo does so for chunked bodies.
func chunksUnlikeGo(wire string, o *outcome) string {
	switch {
	case strings.Contains(wire, " ;"), strings.Contains(wire, "\t;"):
		return "white space before an extension is to be taken and removed (RFC 9112 §7.1.1, RFC 9110 §5.6.3)"
	case len(wire)-len(o.body) > 16<<10:
		return "Go bounds the frames of all chunks together; ours cost nothing to keep"
	}
	return ""
}

// FuzzResponse holds ours against net/http: whatever ours accepts, net/http
// accepts as well, with the same status, fields, framing, body and trailer, and
// the same bytes left behind the message. However the bytes are split, the
// result is the same.
func FuzzResponse(f *testing.F) {
	plans := [][]byte{nil, {0}, {0, 200}, {40, 1, 7}}
	add := func(text string) {
		f.Add([]byte(text), byte(4*len(text)), plans[len(text)%len(plans)])
		f.Add([]byte(text), byte(4*len(text)+1), []byte(nil)) // to HEAD
	}
	for _, tc := range chunkedBodies {
		add(chunkedHead + tc.wire)
		add(lines("HTTP/1.1 100 Continue") + chunkedHead + tc.wire + "surplus")
	}
	for _, fields := range []string{
		"Content-Length: 5", "Content-Length: 5, 5", "Content-Length: 5\r\nContent-Length: 5", "Content-Length: +5",
		"Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chun\u212aed",
		"Connection: close", "Connection: x, keep-alive", "A: b\r\n c", "A : b", "A: \x00", "A: b\rc", ": b", "Pragma: no-cache",
		"Keep-Alive: timeout=5", "Trailer: A", "Trailer: Content-Length\r\nTransfer-Encoding: chunked",
	} {
		for _, line := range []string{okLine, "HTTP/1.0 200 OK", "HTTP/1.1 204", "HTTP/1.1 304 x", "HTTP/1.2 404 "} {
			add(lines(line, fields) + "hello")
			add(strings.ReplaceAll(lines(line, fields), "\r\n", "\n") + "5\r\nhello\r\n0\r\n\r\n")
		}
	}
	add(lines(okLine))
	add("HTTP/1.1 099 x\r\n\r\n")
	add("HTTP/1.1  200 OK\r\n\r\n")
	methods := []string{"GET", "HEAD", "POST", "OPTIONS"}
	f.Fuzz(func(t *testing.T, raw []byte, how byte, plan []byte) {
		if len(raw) > 1<<16 || len(plan) > 100 {
			return
		}
		data, method := string(raw), methods[how%4]
		o := ours(t, data, method, nil, 32<<10)
		if split := ours(t, data, method, plan, readSizes[int(how/4)%len(readSizes)]); !reflect.DeepEqual(o, withReusable(split, o)) {
			t.Fatalf("%q:\nat once  %+v\nin parts %+v", data, o, split)
		}
		if o.err == "" {
			compareNetHTTP(t, data, method, &o)
		}
	})
}

// withReusable is o with the surplus of p: what is read at once may bring bytes
// behind the message that, in parts, have not been read yet.
func withReusable(o, p outcome) outcome {
	o.reusable = p.reusable
	return o
}

// compareNetHTTP reads the same response with net/http.
func compareNetHTTP(t *testing.T, data, method string, o *outcome) {
	src := bytes.NewReader([]byte(data[o.final:]))
	br := bufio.NewReaderSize(src, 1<<17)
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		if why := unlikeNetHTTP(o); why == "" {
			t.Fatalf("net/http refuses what we accept: %v\n%q", err, data)
		}
		return
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		if o.framing == ByChunks && chunksUnlikeGo(data[o.final:o.consumed], o) != "" {
			return
		}
		t.Fatalf("net/http refuses a body that we accept: %v\n%q", err, data)
	}
	if o.status != resp.StatusCode {
		t.Errorf("status %d, net/http has %d", o.status, resp.StatusCode)
	}
	if o.body != string(body) {
		t.Errorf("body %q, net/http has %q", o.body, body)
	}
	if got := framingOf(resp, method); o.framing != got {
		t.Errorf("framing %d, net/http has %d", o.framing, got)
	}
	if left := src.Len() + br.Buffered(); o.consumed != len(data)-left {
		t.Errorf("%d bytes behind the message, net/http has %d", len(data)-o.consumed, left)
	}
	for name, values := range spacesRemoved(resp.Header) {
		if name == "Cache-Control" && o.fields[name] == nil {
			continue // net/http makes it of Pragma
		}
		if len(values) > 1 && spaced(resp.Header) {
			continue // their order is lost
		}
		if name != "Content-Length" && !reflect.DeepEqual(o.fields[name], values) {
			t.Errorf("field %s is %q, net/http has %q", name, o.fields[name], values)
		}
	}
	for name := range o.fields {
		if spacesRemoved(resp.Header)[name] == nil && name != "Transfer-Encoding" && name != "Trailer" && name != "Connection" {
			t.Errorf("net/http has no field %q", name)
		}
	}
	for name, values := range o.trailer {
		if !reflect.DeepEqual(resp.Trailer[name], values) {
			t.Errorf("trailer field %s is %q, net/http has %q", name, values, resp.Trailer[name])
		}
	}
	if spaced(resp.Header) || spaced(resp.Trailer) {
		if o.reusable {
			t.Error("reusable behind a field name with white space")
		}
	} else if surplus := o.consumed < len(data); !surplus && o.reusable == resp.Close {
		t.Errorf("reusable is %v, net/http's Close as well", o.reusable)
	}
	if t.Failed() {
		t.Logf("%s, %q", method, data)
	}
}

// spacesRemoved is a header without the white space before colons, which net/http
// leaves in the names and a proxy removes (RFC 9112 §5.1).
func spacesRemoved(h http.Header) http.Header {
	if !spaced(h) {
		return h
	}
	out := make(http.Header)
	for name, values := range h {
		name = http.CanonicalHeaderKey(strings.TrimRight(name, " \t"))
		out[name] = append(out[name], values...)
	}
	return out
}

func spaced(h http.Header) bool {
	for name := range h {
		if strings.TrimRight(name, " \t") != name {
			return true
		}
	}
	return false
}

// framingOf is how net/http has framed a response.
func framingOf(resp *http.Response, method string) Framing {
	switch {
	case method == "HEAD" || resp.StatusCode == 204 || resp.StatusCode == 304:
		return NoBody
	case len(resp.TransferEncoding) > 0:
		return ByChunks
	case resp.ContentLength >= 0:
		return ByLength
	default:
		return UntilClose
	}
}

// FuzzChunked encodes random data in random chunks: they must come back whole
// however they are split, with nothing held back, and nothing taken that follows.
// The same random data is then read as a chunked body, against Go's own reader.
func FuzzChunked(f *testing.F) {
	for i, tc := range chunkedBodies {
		f.Add([]byte(tc.wire), []byte{byte(i), 3, 200, 17}, []byte{byte(3 * i)}, byte(i))
		f.Add([]byte(tc.wire+"x"), []byte{byte(i)}, []byte{0, byte(i)}, byte(i))
	}
	f.Add([]byte("5\nhello\r\n0\r\n\r\n"), []byte{}, []byte{}, byte(0))
	f.Add([]byte("5 \r\nhello\r\n0\r\n\r\n"), []byte{255, 254, 253}, []byte{1}, byte(0))
	f.Fuzz(func(t *testing.T, data, chunks, plan []byte, how byte) {
		if len(data) > 1<<15 || len(plan) > 100 {
			return
		}
		size := readSizes[int(how)%len(readSizes)]
		wire, trailer := encodeChunked(string(data), chunks)
		o := ours(t, chunkedHead+wire+"surplus", "GET", plan, size)
		if o.err != "" || o.body != string(data) || o.trailer.Get("X-Sum") != trailer {
			t.Fatalf("%q: got %q, trailer %q, %s; want %q", wire, o.body, o.trailer, o.err, data)
		}
		if o.consumed != len(chunkedHead+wire) {
			t.Fatalf("%q: took %d bytes of what follows", wire, o.consumed-len(chunkedHead+wire))
		}
		if len(wire) < 2000 {
			checkNothingHeldBack(t, sendsAndStays(append([]string{chunkedHead}, pieces(wire, plan)...)...), size, string(data))
		}

		if o = ours(t, chunkedHead+string(data), "GET", plan, size); o.err != "" {
			return
		}
		want, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(data)))
		if err != nil && chunksUnlikeGo(string(data), &o) == "" || err == nil && o.body != string(want) {
			t.Fatalf("%q: got %q, Go's reader %q, %v", data, o.body, want, err)
		}
	})
}

// encodeChunked cuts data into chunks: each byte of the plan tells the size of
// one and how its size is spelt.
func encodeChunked(data string, plan []byte) (wire, trailer string) {
	var b strings.Builder
	for i := 0; data != ""; i++ {
		how := byte(100)
		if i < 500 && len(plan) > 0 {
			how = plan[i%len(plan)]
		}
		n := min(int(how)+1, len(data))
		if i >= 500 {
			n = len(data)
		}
		format := []string{"%x\r\n", "%X\r\n", "%08x\r\n", "%x;ext=\"a;b\"\r\n", "%x \t; ext\r\n"}[how%5]
		fmt.Fprintf(&b, format, n)
		b.WriteString(data[:n] + "\r\n")
		data = data[n:]
	}
	if b.WriteString("0\r\n"); len(plan) > 0 && plan[0]%2 == 1 {
		trailer = "1"
		b.WriteString("x-Sum: 1\r\n")
	}
	b.WriteString("\r\n")
	return b.String(), trailer
}
