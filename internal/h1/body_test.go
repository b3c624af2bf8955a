package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const chunkedHead = okLine + "\r\nTransfer-Encoding: chunked\r\n\r\n"

// afterHead is a connection whose head has been read and framed.
func afterHead(t testing.TB, nc *scriptConn) *Conn {
	t.Helper()
	c := begun(nc)
	if _, _, err := framed(c, "GET"); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBodyByLength(t *testing.T) {
	for _, n := range []int{1, 2, 5, 1000, readBufferSize - 50, readBufferSize, readBufferSize + 1, 50_000} {
		body := pattern(n)
		text := lines(okLine, fmt.Sprintf("Content-Length: %d", n)) + body
		for _, size := range readSizes {
			for _, pieces := range [][]string{{text}, {text[:len(text)-1], text[len(text)-1:]}, bytewise(text)} {
				if size < 100 && n > 1000 {
					continue
				}
				nc := sendsAndStays(pieces...)
				c := afterHead(t, nc)
				if got, err := readAll(t, c, size); got != body || err != nil {
					t.Fatalf("%d bytes, reads of %d: got %d bytes, %v", n, size, len(got), err)
				}
				if nc.ends != 0 || !c.End() {
					t.Fatalf("%d bytes, reads of %d: waits %d times, or not reusable", n, size, nc.ends)
				}
			}
		}
	}
}

func TestBodyUntilClose(t *testing.T) {
	for _, n := range []int{0, 1, 1000, readBufferSize, 50_000} {
		body := pattern(n)
		text := lines(okLine) + body
		for _, size := range readSizes[2:] {
			c := afterHead(t, sends(text[:len(text)-n/2], text[len(text)-n/2:]))
			if got, err := readAll(t, c, size); got != body || err != nil {
				t.Fatalf("%d bytes, reads of %d: got %d bytes, %v", n, size, len(got), err)
			}
			if c.End() {
				t.Fatal("a closed connection counts as reusable")
			}
		}
	}
}

// TestBodyBroken: an error of the connection is no end of a body.
func TestBodyBroken(t *testing.T) {
	for _, head := range []string{lines(okLine), lines(okLine, "Content-Length: 5"), chunkedHead + "5\r\n"} {
		for _, size := range []int{1, 32 << 10} {
			nc := sends(head, "abc")
			nc.end = syscall.ECONNRESET
			c := afterHead(t, nc)
			if got, err := readAll(t, c, size); got != "abc" || err != syscall.ECONNRESET {
				t.Errorf("%q: %q, %v", head, got, err)
			}
			if c.End() {
				t.Errorf("%q: reusable", head)
			}
		}
	}
}

// chunkedBodies are well-formed chunked bodies and what they carry.
var chunkedBodies = []struct {
	name, wire, body string
	trailer          []Field
}{
	{"empty", "0\r\n\r\n", "", nil},
	{"one", "5\r\nhello\r\n0\r\n\r\n", "hello", nil},
	{"two", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", nil},
	{"lower case", "1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", "abcdefghijklmnopqrstuvwxyz", nil},
	{"upper case", "1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", "abcdefghijklmnopqrstuvwxyz", nil},
	{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello", nil},
	{"15 digits", "000000000000005\r\nhello\r\n000000000000000\r\n\r\n", "hello", nil},
	{"extensions", "5;a\r\nhello\r\n1;a=b;c=\"d;e\" \r\n!\r\n0;z=\t\xe9\r\n\r\n", "hello!", nil},
	{"empty extension", "5;\r\nhello\r\n0;\r\n\r\n", "hello", nil},
	{"spaces behind the size", "5  \r\nhello\r\n0 \r\n\r\n", "hello", nil},
	{"space before an extension", "5 \t;a\r\nhello\r\n0 ;a\r\n\r\n", "hello", nil},
	{"frames as data", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n", nil},
	{"trailer", "5\r\nhello\r\n0\r\nx-sum: 1 \r\n\r\n", "hello", []Field{{"X-Sum", "1"}}},
	{"trailers", "0\r\nA: 1\r\nB:\r\nA: 2\r\n\r\n", "", []Field{{"A", "1"}, {"B", ""}, {"A", "2"}}},
}

// TestChunked reads each body with all sizes of reads, cut at every byte.
func TestChunked(t *testing.T) {
	for _, tc := range chunkedBodies {
		t.Run(tc.name, func(t *testing.T) {
			text := chunkedHead + tc.wire
			splits := [][]string{bytewise(text)}
			for i := len(chunkedHead); i <= len(text); i++ {
				splits = append(splits, []string{text[:i], text[i:]})
			}
			for _, pieces := range splits {
				for _, size := range readSizes {
					nc := sendsAndStays(pieces...)
					c := afterHead(t, nc)
					if got, err := readAll(t, c, size); got != tc.body || err != nil {
						t.Fatalf("%q, reads of %d: %q, %v", pieces, size, got, err)
					}
					if !slices.Equal(c.Trailer(), tc.trailer) {
						t.Fatalf("%q: trailer %q, want %q", pieces, c.Trailer(), tc.trailer)
					}
					if nc.ends != 0 || !c.End() {
						t.Fatalf("%q: waits %d times, or not reusable", pieces, nc.ends)
					}
				}
			}
		})
	}
}

// TestTruncated cuts bodies off at every byte: never a clean end, and what came
// before is delivered.
func TestTruncated(t *testing.T) {
	texts := map[string]string{lines(okLine, "Content-Length: 11") + "hello world": "hello world"}
	for _, tc := range chunkedBodies {
		texts[chunkedHead+tc.wire] = tc.body
	}
	for text, body := range texts {
		head := strings.Index(text, "\r\n\r\n") + 4
		for end := head; end < len(text); end++ {
			for _, size := range readSizes {
				for _, pieces := range [][]string{{text[:end]}, bytewise(text[:end])} {
					c := afterHead(t, sends(pieces...))
					got, err := readAll(t, c, size)
					if err != io.ErrUnexpectedEOF {
						t.Fatalf("%q, reads of %d: %v", text[:end], size, err)
					}
					if !strings.HasPrefix(body, got) {
						t.Fatalf("%q: got %q", text[:end], got)
					}
					if c.End() {
						t.Fatalf("%q: reusable", text[:end])
					}
				}
			}
		}
	}
}

// TestSmallChunksTogether: many small chunks at hand make one read, however their sizes
// are written. Otherwise each would cost a look at all that is at hand, and a flush.
func TestSmallChunksTogether(t *testing.T) {
	const n = 200
	for _, chunk := range []string{"3\r\nabc\r\n", "03\r\nabc\r\n", "00003\r\nabc\r\n", "0003;x=1\r\nabc\r\n"} {
		for end, want := range map[string]error{"": nil, "0\r\n\r\n": io.EOF, "000;x\r\nA: b\r\n\r\n": io.EOF} {
			nc := sendsAndStays(chunkedHead + strings.Repeat(chunk, n) + end)
			c := afterHead(t, nc)
			got, err := c.Body().Read(make([]byte, 32<<10))
			if got != 3*n || err != want {
				t.Errorf("%q, end %q: one read brought %d bytes, %v; want %d, %v", chunk, end, got, err, 3*n, want)
			}
			if nc.reads != 1 {
				t.Errorf("%q, end %q: %d reads of the connection, want 1", chunk, end, nc.reads)
			}
		}
	}
}

// TestNothingHeldBack gives the reader each beginning of a body, whole and in two
// pieces: it must deliver all data in it before it waits for more, and Buffered
// must not promise what would wait. What holds data back here hangs a stream of
// events in the real world.
func TestNothingHeldBack(t *testing.T) {
	for _, tc := range chunkedBodies {
		text := chunkedHead + tc.wire
		for end := len(chunkedHead); end <= len(text); end++ {
			want := deliverable(text[len(chunkedHead):end])
			for cut := len(chunkedHead); cut <= end; cut++ {
				for _, size := range readSizes {
					nc := sendsAndStays(text[:cut], text[cut:end])
					checkNothingHeldBack(t, nc, size, want)
				}
			}
		}
	}
}

// deliverable is the data in the beginning of a well-formed chunked body.
func deliverable(wire string) (data string) {
	for {
		line, rest, ok := strings.Cut(wire, "\r\n")
		if !ok {
			return data
		}
		var size int
		if _, err := fmt.Sscanf(line, "%x", &size); err != nil || size == 0 {
			return data
		}
		if len(rest) < size {
			return data + rest
		}
		data += rest[:size]
		if len(rest) < size+2 {
			return data
		}
		wire = rest[size+2:]
	}
}

func checkNothingHeldBack(t *testing.T, nc *scriptConn, size int, want string) {
	t.Helper()
	script := fmt.Sprintf("%+v", nc.script)
	c := afterHead(t, nc)
	got, p := "", make([]byte, size)
	for {
		promised, before := c.Buffered(), nc.ends
		n, err := c.Body().Read(p)
		got += string(p[:n])
		waited := nc.ends > before
		if waited && n > 0 {
			t.Fatalf("%s: waits while it holds %q", script, p[:n])
		}
		if waited && promised > 0 {
			t.Fatalf("%s: %d bytes are buffered, but the read waits (after %q)", script, promised, got)
		}
		if err != nil {
			break
		}
	}
	if got != want {
		t.Fatalf("%s, reads of %d: %q, want %q", script, size, got, want)
	}
}

// TestChunkByChunk is the same over a pipe: each chunk is answered with the next
// only when it has been delivered. The frame of a chunk may be late, and that of
// the last one too.
func TestChunkByChunk(t *testing.T) {
	for _, pieces := range [][]string{
		{"5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"},
		{"5\r\nfirst", "\r\n6\r\nsecond", "\r\n0\r\n\r\n"},
		{"5\r\nfirst\r\n6\r\n", "second\r\n0\r\n", "\r\n"},
		{"5\r\nfirst\r\n6", "\r\nsecond\r\n0\r", "\n\r\n"},
		{"5\r\nfirst\r\n6\r\ns", "econd\r\n0\r\nA: ", "b\r\n\r\n"},
	} {
		ours, theirs := net.Pipe()
		c := begun(ours)
		delivered := make(chan string, 16) // so that the reader never waits for us
		go func() {
			defer close(delivered)
			var h Head
			if c.ReadHead(&h, testLimit) != nil {
				return
			}
			if _, err := c.Frame(&h, "GET"); err != nil {
				return
			}
			p := make([]byte, 32<<10)
			for {
				n, err := c.Body().Read(p)
				if n > 0 {
					delivered <- string(p[:n])
				}
				if err != nil {
					delivered <- err.Error()
					return
				}
			}
		}()
		_, _ = theirs.Write([]byte(chunkedHead))
		got := ""
		for i, want := range []string{"first", "firstsecond", "firstsecondEOF"} {
			// A pipe takes a write when it has been read whole.
			_, _ = theirs.Write([]byte(pieces[i]))
			for len(got) < len(want) {
				more, ok := <-delivered
				if !ok {
					t.Fatalf("%q: ended after %q", pieces, got)
				}
				got += more
			}
			if !strings.HasPrefix(got, want) {
				t.Fatalf("%q: delivered %q, want %q", pieces, got, want)
			}
		}
		_, _ = ours.Close(), theirs.Close()
	}
}

// TestReadNothing: a read without room neither waits nor ends anything.
func TestReadNothing(t *testing.T) {
	for _, text := range []string{lines(okLine, "Content-Length: 1"), chunkedHead, lines(okLine)} {
		nc := sendsAndStays(text)
		c := afterHead(t, nc)
		if n, err := c.Body().Read(nil); n != 0 || err != nil || nc.ends != 0 {
			t.Errorf("%q: %d, %v after %d waits", text, n, err, nc.ends)
		}
	}
}

// TestBodyErrorStays: after an error a body does not go on, even if more comes.
func TestBodyErrorStays(t *testing.T) {
	for _, head := range []string{lines(okLine, "Content-Length: 5"), chunkedHead + "5\r\n", lines(okLine)} {
		nc := sendsAndStays(head)
		nc.script = append(nc.script, scriptStep{err: os.ErrDeadlineExceeded}, scriptStep{data: "hello"})
		c := afterHead(t, nc)
		for range 2 {
			if n, err := c.Body().Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q: %d, %v", head, n, err)
			}
		}
	}
}

// TestLargeReadsPassTheBuffer: bodies go straight into large buffers.
func TestLargeReadsPassTheBuffer(t *testing.T) {
	body := pattern(64 << 10)
	for _, text := range []string{
		lines(okLine, "Content-Length: 65536"),
		chunkedHead + "10000\r\n",
		lines(okLine),
	} {
		nc := sendsAndStays(text, body)
		c := afterHead(t, nc)
		p := make([]byte, 32<<10)
		for range 2 {
			n, err := c.Body().Read(p)
			if n != len(p) || string(p) != body[:n] || err != nil && err != io.EOF {
				t.Errorf("%q: a read of %d bytes brought %d, %v", text, len(p), n, err)
			}
			body = body[n:] + body[:n]
		}
		if nc.reads != 3 {
			t.Errorf("%q: %d reads of the connection, want 3", text, nc.reads)
		}
	}
}
