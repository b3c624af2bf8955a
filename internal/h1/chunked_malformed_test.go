package h1

import (
	"errors"
	"strings"
	"testing"
)

// TestMalformedChunks has each bad body with the exact error, and the data that
// came before it, in one piece and byte by byte.
func TestMalformedChunks(t *testing.T) {
	for _, tc := range []struct{ name, wire, want, body string }{
		{"no size", "\r\nhello", `chunk size ""`, ""},
		{"only an extension", ";a=b\r\nhello", `chunk size ""`, ""},
		{"not hex", "5g\r\nhello", `chunk size "5g"`, ""},
		{"0x", "0x5\r\nhello", `chunk size "0x5"`, ""},
		{"plus", "+5\r\nhello", `chunk size "+5"`, ""},
		{"minus", "-5\r\nhello", `chunk size "-5"`, ""},
		{"underscore", "0_5\r\nhello", `chunk size "0_5"`, ""},
		{"space before", " 5\r\nhello", `chunk size " 5"`, ""},
		{"tab behind", "5\t\r\nhello", `chunk size "5\t"`, ""},
		{"space within", "1 0\r\nhello", `chunk size "1 0"`, ""},
		{"full-width digit", "\uff15\r\nhello", `chunk size "` + "\uff15" + `"`, ""},
		{"16 digits", "0000000000000005\r\nhello", `chunk size "0000000000000005"`, ""},
		{"2^64+5", "10000000000000005\r\nhello", `chunk size "10000000000000005"`, ""},
		{"long size is cut", strings.Repeat("1", 50) + "\r\n", `chunk size "` + strings.Repeat("1", 20) + `"`, ""},
		{"bare CR in an extension", "5;a\rb\r\nhello", "control character in a chunk extension", ""},
		{"NUL in an extension", "5;a\x00\r\nhello", "control character in a chunk extension", ""},
		{"bare CR behind the size", "5\r\r\nhello", `chunk size "5\r"`, ""},
		{"LF-only size line", "5\nhello\r\n0\r\n\r\n", "line of a chunked body that ends without CR", ""},
		{"LF-only empty size line", "\n", "line of a chunked body that ends without CR", ""},
		{"LF-only extension", "5;a\nhello\r\n0\r\n\r\n", "line of a chunked body that ends without CR", ""},
		{"LF-only chunk end", "5\r\nhello\n0\r\n\r\n", "line of a chunked body that ends without CR", "hello"},
		{"LF-only last size", "5\r\nhello\r\n0\n\r\n", "line of a chunked body that ends without CR", "hello"},
		{"LF-only end", "5\r\nhello\r\n0\r\n\n", "line of a chunked body that ends without CR", "hello"},
		{"LF-only trailer", "0\r\nA: b\n\r\n", "line of a chunked body that ends without CR", ""},
		{"no CRLF after a chunk", "5\r\nhello6\r\n world\r\n0\r\n\r\n", "chunk longer than its size", "hello"},
		{"chunk one byte longer", "5\r\nhello!\r\n0\r\n\r\n", "chunk longer than its size", "hello"},
		{"chunk one byte shorter", "6\r\nhello\r\n0\r\n\r\n", "line of a chunked body that ends without CR", "hello\r"},
		{"empty line after the CRLF", "5\r\nhello\r\n\r\n0\r\n\r\n", `chunk size ""`, "hello"},
		{"garbage as the second size", "5\r\nhello\r\nzz\r\n", `chunk size "zz"`, "hello"},
		{"trailer without colon", "0\r\nA\r\n\r\n", `field line without a colon: "A"`, ""},
		{"trailer with space within a name", "0\r\nA b: c\r\n\r\n", `field name "A b"`, ""},
		{"trailer with obs-fold", "0\r\nA: b\r\n c\r\n\r\n", "obsolete line folding (RFC 9112 section 5.2)", ""},
		{"trailer with bare CR", "0\r\nA: b\rc\r\n\r\n", "control character in the value of field A", ""},
		{"trailer with NUL", "0\r\nA: \x00\r\n\r\n", "control character in the value of field A", ""},
		{"next response as a trailer", "0\r\nHTTP/1.1 200 OK\r\n\r\n", `field line without a colon: "HTTP/1.1 200 OK"`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := chunkedHead + tc.wire
			for _, pieces := range [][]string{{text}, bytewise(text)} {
				for _, size := range readSizes {
					c := afterHead(t, sendsAndStays(pieces...))
					got, err := readAll(t, c, size)
					if got != tc.body {
						t.Errorf("data %q, want %q", got, tc.body)
					}
					if text := protocolError(t, err); text != "malformed response: "+tc.want {
						t.Fatalf("reads of %d:\ngot  %s\nwant malformed response: %s", size, text, tc.want)
					}
					if c.End() {
						t.Error("reusable")
					}
				}
			}
		})
	}
}

// TestChunkedLimits: lines and trailer sections of exactly the limit pass, and
// one byte more does not, however they come.
func TestChunkedLimits(t *testing.T) {
	fields := func(n, size int) string { // n field lines of the given size, with CRLF
		return strings.Repeat("A: "+strings.Repeat("a", size-5)+"\r\n", n)
	}
	for _, tc := range []struct{ name, wire, want string }{
		{"size line", "0;" + strings.Repeat("x", maxChunkLine-4) + "\r\n\r\n", ""},
		{"size line", "0;" + strings.Repeat("x", maxChunkLine-3) + "\r\n\r\n", "line of a chunked body over 1024 bytes"},
		{"size line without end", strings.Repeat("0", 1<<20), "line of a chunked body over 1024 bytes"},
		{"chunk end", "1\r\na" + strings.Repeat("x", maxChunkLine-2) + "\r\n", "chunk longer than its size"},
		{"chunk end", "1\r\na" + strings.Repeat("x", maxChunkLine-1) + "\r\n", "line of a chunked body over 1024 bytes"},
		{"trailer line", "0\r\n" + fields(1, maxTrailer) + "\r\n", ""},
		{"trailer line", "0\r\n" + fields(1, maxTrailer+1) + "\r\n", "line of a chunked body over 16384 bytes"},
		{"trailer line without end", "0\r\nA:" + strings.Repeat("a", 1<<20), "line of a chunked body over 16384 bytes"},
		{"trailer section", "0\r\n" + fields(16, maxTrailer/16) + "\r\n", ""},
		{"trailer section", "0\r\n" + fields(15, maxTrailer/16) + fields(1, maxTrailer/16+1) + "\r\n", "trailer section over 16384 bytes"},
		{"trailers without end", "0\r\n" + fields(1<<14, 32), "trailer section over 16384 bytes"},
		{"short trailers without end", "0\r\n" + fields(1<<16, 8), "trailer section of over 1000 fields"},
	} {
		text := chunkedHead + tc.wire
		for _, pieces := range [][]string{{text}, bytewise(text[:min(len(text), 20000)])} {
			c := afterHead(t, sends(pieces...))
			_, err := readAll(t, c, 100)
			switch {
			case tc.want == "":
				if err != nil {
					t.Errorf("%s at its limit: %v", tc.name, err)
				}
			default:
				if got := protocolError(t, err); got != "malformed response: "+tc.want {
					t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
				}
				p, _ := errors.AsType[*ProtocolError](err)
				if want := strings.Contains(tc.want, "over"); p.TooLarge != want {
					t.Errorf("%s: too large is %v", tc.name, p.TooLarge)
				}
			}
			if n := len(c.buf); n > 4*maxTrailer {
				t.Errorf("%s: the buffer has grown to %d bytes", tc.name, n)
			}
		}
	}
}

// What is at hand and is no frame of a chunk is told of as an error without waiting: as
// long as the head was not sent on, it can be taken back.
func TestBufferedSeesBrokenFrame(t *testing.T) {
	for _, frame := range []string{"no chunk\r\n", "0zz\r\n", "5\n", "\r\n", "\n", "-1\r\n"} {
		nc := sendsAndStays(chunkedHead + frame)
		c := afterHead(t, nc)
		if c.Buffered() == 0 {
			t.Errorf("%q: nothing is at hand", frame)
		}
		if _, err := c.Body().Read(make([]byte, 10)); !errors.As(err, new(*ProtocolError)) {
			t.Errorf("%q: %v", frame, err)
		}
	}
}
