package h1

import (
	"bytes"
	"errors"
	"io"
)

// maxChunkLine bounds a chunk-size line with its extensions.
const maxChunkLine = 1 << 10

// bodyState is where the reading of a response body stands.
type bodyState struct {
	framing  Framing
	left     int64 // of the body (ByLength) or of the current chunk (ByChunks)
	inChunks bool  // the first chunk line was read
	done     bool  // the body was read to its end
	err      error // sticky
	trailer  []Field
}

func (c *Conn) startBody(resp Response) {
	c.body = bodyState{framing: resp.Framing, left: max(resp.Length, 0)}
	switch resp.Framing {
	case NoBody:
		c.body.done = true
	case ByLength:
		c.body.done = resp.Length == 0
	case ByChunks:
		c.body.left = 0
	}
}

// Body reads the response body: io.EOF at its end, io.ErrUnexpectedEOF where
// the connection ended first, a *ProtocolError for broken chunks.
func (c *Conn) Body() io.Reader { return (*bodyReader)(c) }

// BodyDone reports whether the body has been read to its end.
func (c *Conn) BodyDone() bool { return c.body.done }

// Buffered returns how many bytes of the connection are at hand, so that
// reading cannot block. It is 0 where the next read of the body may wait, also
// if a part of a chunk's frame is there already.
func (c *Conn) Buffered() int {
	if c.body.framing == ByChunks && c.body.left == 0 && !c.body.done && !c.chunkAtHand() {
		return 0
	}
	return c.w - c.r
}

// Trailer returns the trailer fields, once the body is done.
func (c *Conn) Trailer() []Field { return c.body.trailer }

type bodyReader Conn

// Read reads the body. The read deadline of the head no longer holds: a body
// takes the time it takes.
func (b *bodyReader) Read(p []byte) (int, error) {
	c := (*Conn)(b)
	if c.body.done {
		return 0, io.EOF
	}
	if c.body.err != nil {
		return 0, c.body.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.readBody(p)
	if err != nil && !c.body.done {
		c.body.err = err
	}
	return n, err
}

func (c *Conn) readBody(p []byte) (int, error) {
	switch c.body.framing {
	case ByChunks:
		return c.readChunked(p)
	case ByLength:
		n, err := c.readLeft(p)
		if err == nil && c.body.left == 0 {
			c.body.done = true
			err = io.EOF
		}
		return n, err
	default:
		n, err := c.readSome(p)
		if err == io.EOF {
			if c.cutOff() {
				return n, io.ErrUnexpectedEOF
			}
			c.body.done = true
		}
		return n, err
	}
}

// readSome reads what is at hand, or waits for the connection. A large p is
// filled without a detour through the buffer.
func (c *Conn) readSome(p []byte) (int, error) {
	if c.r == c.w {
		if err := c.awaitBody(); err != nil {
			return 0, err
		}
		if len(p) >= len(c.buf) {
			return c.read(p)
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// readLeft reads at most what is left of the body or chunk.
func (c *Conn) readLeft(p []byte) (int, error) {
	if int64(len(p)) > c.body.left {
		p = p[:c.body.left]
	}
	n, err := c.readSome(p)
	c.body.left -= int64(n)
	if n > 0 {
		// An error that came with data will come again.
		return n, nil
	}
	return 0, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readChunked reads from the current chunk, and goes on with the next ones as
// long as they are at hand, so that many small chunks make one read.
func (c *Conn) readChunked(p []byte) (int, error) {
	total := 0
	for {
		if c.body.left == 0 {
			if total > 0 && !c.chunkAtHand() {
				return total, nil
			}
			if err := c.nextChunk(); err != nil {
				return total, err
			}
			continue
		}
		n, err := c.readLeft(p[total:])
		total += n
		if err != nil || total == len(p) || c.body.left > 0 {
			return total, err
		}
	}
}

// chunkAtHand reports whether the reading can go on behind a chunk without
// waiting: the frame of the next chunk is at hand and a byte of its data, or
// behind a size of zero the trailer section, which an empty line ends; or what is at
// hand is no frame of a chunk, for which nothing more need be there.
func (c *Conn) chunkAtHand() bool {
	b := c.buf[c.r:c.w]
	if c.body.inChunks {
		end, rest, ok := bytes.Cut(b, []byte{'\n'})
		if !ok {
			return false
		}
		if len(end) != 1 || end[0] != '\r' {
			return true
		}
		b = rest
	}
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return false
	}
	line, crlf := bytes.CutSuffix(line, []byte{'\r'})
	size, err := parseChunkSize(line)
	switch {
	case err != nil || !crlf:
		return true
	case size == 0:
		return len(rest) >= 2 && rest[0] == '\r' && rest[1] == '\n' || bytes.Contains(rest, []byte("\r\n\r\n"))
	}
	return len(rest) > 0
}

// nextChunk reads the end of a chunk and the size line of the next one. After
// the last chunk it reads the trailer section and returns io.EOF.
func (c *Conn) nextChunk() error {
	if c.body.inChunks {
		line, err := c.readLine(maxChunkLine)
		if err != nil {
			return err
		}
		if len(line) > 0 {
			return malformed("chunk longer than its size")
		}
	}
	line, err := c.readLine(maxChunkLine)
	if err != nil {
		return err
	}
	if c.body.left, err = parseChunkSize(line); err != nil {
		return err
	}
	c.body.inChunks = true
	if c.body.left > 0 {
		return nil
	}
	if err := c.readTrailer(); err != nil {
		return err
	}
	c.body.done = true
	return io.EOF
}

// parseChunkSize reads chunk-size [ chunk-ext ] (RFC 9112 §7.1). Extensions are
// dropped, and spaces behind the size, which old servers pad it with.
func parseChunkSize(line []byte) (int64, error) {
	size, ext, hasExt := bytes.Cut(line, []byte{';'})
	padding := " "
	if hasExt {
		padding = " \t" // BWS, as anywhere in front of an extension
		if !validValue(ext) {
			return 0, malformed("control character in a chunk extension")
		}
	}
	size = bytes.TrimRight(size, padding)
	if len(size) == 0 || len(size) > 15 {
		return 0, malformed("chunk size %.20q", size)
	}
	var n int64
	for _, b := range size {
		d, ok := hexDigit(b)
		if !ok {
			return 0, malformed("chunk size %.20q", size)
		}
		n = n<<4 | int64(d)
	}
	return n, nil
}

func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

// maxTrailer bounds a trailer section.
const maxTrailer = 16 << 10

func (c *Conn) readTrailer() error {
	total := 0
	for {
		line, err := c.readLine(maxTrailer)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		if total += len(line) + 2; total > maxTrailer {
			return tooLarge("trailer section over %d bytes", maxTrailer)
		}
		if len(c.body.trailer) == MaxFields {
			return tooLarge("trailer section of over %d fields", MaxFields)
		}
		if canonicalName(line) {
			c.doubtful = true // as in a head
		}
		f, err := parseField(string(line))
		if err != nil {
			return err
		}
		c.body.trailer = append(c.body.trailer, f)
	}
}

// readLine reads a line that ends with CRLF, and nothing else: within a body a
// lone LF or CR leaves the framing in doubt. What it returns is without the CRLF
// and valid until the next read.
func (c *Conn) readLine(limit int) ([]byte, error) {
	scanned := 0
	for {
		unread := c.buf[c.r:c.w]
		if i := bytes.IndexByte(unread[scanned:], '\n'); i >= 0 && scanned+i < limit {
			line := unread[:scanned+i]
			c.r += len(line) + 1
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, malformed("line of a chunked body that ends without CR")
			}
			return line[:len(line)-1], nil
		}
		if scanned = len(unread); scanned >= limit {
			return nil, tooLarge("line of a chunked body over %d bytes", limit)
		}
		if err := c.awaitBody(); err != nil {
			return nil, err
		}
		c.makeRoom()
		if err := c.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}
