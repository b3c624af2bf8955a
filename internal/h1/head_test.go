package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHeadGet(t *testing.T) {
	h := Head{Fields: []Field{{"Age", "1"}, {"Server", "a"}, {"Server", "b"}}}
	if got := h.Get("Server") + h.Get("Age") + h.Get("Via"); got != "a1" {
		t.Errorf("got %q", got)
	}
}

// TestHeadSplit cuts a sequence of heads in two and in three at every byte. The
// final head comes after informational ones, where the buffer starts anew.
func TestHeadSplit(t *testing.T) {
	text := lines("HTTP/1.1 100 Continue") + lines("HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload") +
		lines("HTTP/1.1 200 OK", "Content-Length: 2") + "ok"
	check := func(pieces ...string) {
		t.Helper()
		nc := sendsAndStays(pieces...)
		c := begun(nc)
		var h Head
		for _, want := range []int{100, 103, 200} {
			if err := c.ReadHead(&h, testLimit); err != nil || h.Status != want {
				t.Fatalf("%q: status %d, %v; want %d", pieces, h.Status, err, want)
			}
		}
		if _, err := c.Frame(&h, "GET"); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(t, c, 10); got != "ok" || err != nil {
			t.Fatalf("%q: body %q, %v", pieces, got, err)
		}
		if nc.ends != 0 || !c.End() {
			t.Fatalf("%q: read %d times too often, or not reusable", pieces, nc.ends)
		}
	}
	for i := range len(text) + 1 {
		check(text[:i], text[i:])
		for j := i; j <= len(text); j++ {
			check(text[:i], text[i:j], text[j:])
		}
	}
	check(bytewise(text)...)
}

// TestHeadLimit: a head of exactly the limit passes and one byte more does not,
// however it comes and whatever fits into the buffer. What follows the head does
// not count.
func TestHeadLimit(t *testing.T) {
	for _, size := range []int{60, 1000, readBufferSize - 1, readBufferSize, readBufferSize + 1, 3 * readBufferSize, testLimit} {
		head := lines(okLine, "Content-Length: 4", "X: "+strings.Repeat("x", size))
		head = strings.Replace(head, strings.Repeat("x", len(head)-size), "", 1)
		if len(head) != size {
			t.Fatalf("the head has %d bytes instead of %d", len(head), size)
		}
		for name, pieces := range map[string][]string{
			"at once":      {head + "body"},
			"byte by byte": bytewise(head + "body"),
			"two pieces":   {head[:size-1], head[size-1:] + "body"},
		} {
			var h Head
			c := begun(sendsAndStays(pieces...))
			if err := c.ReadHead(&h, size); err != nil {
				t.Errorf("%d bytes %s: %v", size, name, err)
				continue
			}
			if _, err := c.Frame(&h, "GET"); err != nil {
				t.Error(err)
			}
			if got, err := readAll(t, c, 10); got != "body" || err != nil {
				t.Errorf("%d bytes %s: body %q, %v", size, name, got, err)
			}

			err := begun(sendsAndStays(pieces...)).ReadHead(&h, size-1)
			if got, want := protocolError(t, err), fmt.Sprintf("malformed response: response head over %d bytes", size-1); got != want {
				t.Errorf("%d bytes %s, limit one less: %q, want %q", size, name, got, want)
			}
			if p, _ := errors.AsType[*ProtocolError](err); !p.TooLarge {
				t.Error("does not count as too large")
			}
		}
	}
}

// TestEndlessHead: a head without an end is given up at the limit, not read on.
func TestEndlessHead(t *testing.T) {
	for _, filler := range []string{"x", "X: y\r\n"} {
		nc := sendsAndStays(okLine, "\r\n", strings.Repeat(filler, 1<<20))
		before := nc.unread()
		c := begun(nc)
		if got := protocolError(t, c.ReadHead(new(Head), 10000)); got != "malformed response: response head over 10000 bytes" {
			t.Error(got)
		}
		if read := before - nc.unread(); read > 2*10000 {
			t.Errorf("read %d bytes for a limit of 10000", read)
		}
	}
}

// TestAnotherProtocol: what cannot become a response is seen to be none without a line
// end, or the end of the connection, being waited for.
func TestAnotherProtocol(t *testing.T) {
	for _, came := range []string{"SSH-2.0-x", "\x15\x03\x01", "\r\nHTTP/1.1 200", "HTTQ"} {
		for _, pieces := range [][]string{{came}, bytewise(came)} {
			err := begun(sendsAndStays(pieces...)).ReadHead(new(Head), 10000)
			if p, ok := errors.AsType[*ProtocolError](err); !ok || !p.NoHTTP {
				t.Errorf("%q in %d pieces: %v", came, len(pieces), err)
			}
		}
	}
	for _, came := range []string{"H", "HTTP/", "HTTP/1.1 200 OK\r\n"} {
		if err := begun(sendsAndStays(came)).ReadHead(new(Head), 10000); err != errWouldWait {
			t.Errorf("%q, which may be a response: %v", came, err)
		}
	}
}

// TestHeadWithoutEndAtLimit: when no more may come, nothing is waited for.
func TestHeadWithoutEndAtLimit(t *testing.T) {
	const text = okLine + "\r\nServer: x"
	nc := sendsAndStays(text)
	_ = protocolError(t, begun(nc).ReadHead(new(Head), len(text)))
	nc = sendsAndStays(text)
	if err := begun(nc).ReadHead(new(Head), len(text)+1); err != errWouldWait {
		t.Errorf("a byte below the limit: %v", err)
	}
}

// TestInformationalFlood: the buffer does not grow with the number of heads.
func TestInformationalFlood(t *testing.T) {
	const n = 1000
	var cut []string
	for text := strings.Repeat(lines("HTTP/1.1 103 Early Hints", "Link: </a>"), n); text != ""; {
		m := min(7, len(text))
		cut, text = append(cut, text[:m]), text[m:]
	}
	// Pieces that are at hand together, and pieces that are not.
	for _, pieces := range [][]string{cut, {strings.Join(cut, "")}} {
		c := begun(sendsAndStays(pieces...))
		for i := range n {
			if err := c.ReadHead(new(Head), testLimit); err != nil {
				t.Fatalf("head %d: %v", i, err)
			}
		}
		if len(c.buf) != readBufferSize {
			t.Errorf("the buffer has grown to %d bytes", len(c.buf))
		}
	}
}

// TestLargeHeads has heads around the size of the buffer behind informational
// ones, so that the buffer moves, grows, or both.
func TestLargeHeads(t *testing.T) {
	for _, hints := range []int{0, 50, readBufferSize - 60, readBufferSize - 30} {
		for size := readBufferSize - 40; size < readBufferSize+40; size++ {
			first := lines("HTTP/1.1 103 Early Hints", "A: "+strings.Repeat("a", hints))
			final := lines(okLine, "Content-Length: 3", "B: "+strings.Repeat("b", size), "C: c")
			text := first + final + "end"
			c := begun(sendsAndStays(text[:len(first)+7], text[len(first)+7:]))
			var h Head
			if err := c.ReadHead(&h, testLimit); err != nil || len(h.Get("A")) != hints {
				t.Fatalf("hints of %d: %v", hints, err)
			}
			if _, _, err := framed(c, "GET"); err != nil {
				t.Fatalf("%d behind %d: %v", size, hints, err)
			}
			if got, err := readAll(t, c, 10); got != "end" || err != nil {
				t.Fatalf("%d behind %d: body %q, %v", size, hints, got, err)
			}
		}
	}
}

// TestHeadEndsEarly: the connection ends at each byte of an informational and a
// final head. Only where nothing came at all may a request be repeated.
func TestHeadEndsEarly(t *testing.T) {
	first, final := lines("HTTP/1.1 103 Early Hints"), lines(okLine, "Server: x")
	text := first + final
	for i := range len(text) {
		c := begun(sends(text[:i]))
		err := c.ReadHead(new(Head), testLimit)
		if i >= len(first) {
			if err != nil {
				t.Fatal(err)
			}
			err = c.ReadHead(new(Head), testLimit)
		}
		switch {
		case i == 0:
			if err != ErrClosedBeforeResponse {
				t.Errorf("nothing came: %v", err)
			}
		case !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("after %d bytes: %v", i, err)
		case i == len(first):
			if got := err.Error(); got != "unexpected EOF after an informational response" {
				t.Error(got)
			}
		default:
			if got := err.Error(); got != "unexpected EOF within the response head" {
				t.Errorf("after %d bytes: %s", i, got)
			}
		}
		if c.End() {
			t.Errorf("after %d bytes: reusable", i)
		}
	}
}

// TestHeadReadErrors: errors of the connection come as they are.
func TestHeadReadErrors(t *testing.T) {
	for _, before := range []string{"", "HTTP/1.1 200"} {
		nc := sends(before)
		nc.end = syscall.ECONNRESET
		if err := begun(nc).ReadHead(new(Head), testLimit); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %q: %v", before, err)
		}
	}
	nc := &scriptConn{end: nil} // reads nothing, without an error
	if err := begun(nc).ReadHead(new(Head), testLimit); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("empty reads: %v", err)
	}
}

// TestReadHeadResumes: a deadline between any two bytes loses nothing.
func TestReadHeadResumes(t *testing.T) {
	text := lines("HTTP/1.1 103 Early Hints", "Link: x") + lines(okLine, "Content-Length: 1") + "b"
	nc := sendsAndStays()
	for _, b := range bytewise(text) {
		nc.script = append(nc.script, scriptStep{err: os.ErrDeadlineExceeded}, scriptStep{data: b})
	}
	c := begun(nc)
	deadlines := 0
	for _, want := range []int{103, 200} {
		var h Head
		err := c.ReadHead(&h, testLimit)
		for ; errors.Is(err, os.ErrDeadlineExceeded); err = c.ReadHead(&h, testLimit) {
			deadlines++
		}
		if err != nil || h.Status != want {
			t.Fatalf("status %d, %v; want %d", h.Status, err, want)
		}
	}
	if deadlines != len(text)-1 {
		t.Errorf("%d deadlines, want %d", deadlines, len(text)-1)
	}
}

// TestReadHeadDeadline is the same with a real deadline.
func TestReadHeadDeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := begun(ours)
	defer c.Close()
	var h Head
	for _, piece := range []string{"HTTP/1.1 2", "00 OK\r\nServer:", " x\r\n"} {
		// The deadline has passed before the read: the pieces are written
		// while none holds.
		if err := c.SetReadDeadline(longAgo); err != nil {
			t.Fatal(err)
		}
		if err := c.ReadHead(&h, testLimit); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Time{})
		done := make(chan struct{})
		go func() { defer close(done); _, _ = theirs.Write([]byte(piece)) }()
		if err := c.fill(); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	go func() { _, _ = theirs.Write([]byte("\r\n")) }()
	if err := c.ReadHead(&h, testLimit); err != nil || h.Status != 200 || h.Get("Server") != "x" {
		t.Errorf("status %d, fields %q, %v", h.Status, h.Fields, err)
	}
}

func TestValidField(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		want        bool
	}{
		{"Server", "x", true},
		{"Server", "", true},
		{"Server", "a\tb \xff", true},
		{"", "x", false},
		{"Ser ver", "x", false},
		{"Server:", "x", false},
		{"Serv\u00e9r", "x", false},
		{"Server", "a\rb", false},
		{"Server", "a\nb", false},
		{"Server", "a\x00b", false},
		{"Server", "a\x7f", false},
	} {
		if got := ValidField(tc.name, tc.value); got != tc.want {
			t.Errorf("ValidField(%q, %q) is %v", tc.name, tc.value, got)
		}
	}
}

func TestAppendField(t *testing.T) {
	if got := string(AppendField([]byte("GET / HTTP/1.1\r\n"), "Host", "a")); got != "GET / HTTP/1.1\r\nHost: a\r\n" {
		t.Errorf("%q", got)
	}
}

// TestTooManyFields: the number of fields is bounded, in heads and in trailer sections.
func TestTooManyFields(t *testing.T) {
	for n, want := range map[int]string{MaxFields: "", MaxFields + 1: "over 1000 fields"} {
		fields := strings.Repeat("a:\r\n", n) + "\r\n"
		r := new(replay)
		r.again(okLine + "\r\n" + fields)
		c := NewConn(r)
		c.Begin()
		h := new(Head)
		err := c.ReadHead(h, 64<<10)
		checkTooLarge(t, err, want)
		if want == "" && len(h.Fields) != n {
			t.Errorf("%d fields of %d", len(h.Fields), n)
		}
		r.again(okLine + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + fields)
		c.Begin()
		if err := c.ReadHead(h, 64<<10); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Frame(h, "GET"); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(c.Body())
		checkTooLarge(t, err, want)
	}
}

func checkTooLarge(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	pe, ok := errors.AsType[*ProtocolError](err)
	if !ok || !pe.TooLarge || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want one about %q", err, want)
	}
}
