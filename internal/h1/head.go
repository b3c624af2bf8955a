package h1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxFields bounds the field lines of a head, and those of a trailer section: each costs
// more than its bytes.
const MaxFields = 1000

// Field is one header or trailer field line.
type Field struct {
	Name  string // in canonical form (Content-Type)
	Value string // without surrounding white space
}

// Head is a response head. It can be used again for the next one.
type Head struct {
	// Status is the three-digit status code, 100 to 599 or above.
	Status int
	// Minor is the minor version: 0 or 1 (higher counts as 1).
	Minor int
	// Fields are the field lines in the order they came.
	Fields []Field
}

// Get returns the value of the first field of that canonical name.
func (h *Head) Get(name string) string {
	for i := range h.Fields {
		if h.Fields[i].Name == name {
			return h.Fields[i].Value
		}
	}
	return ""
}

// ReadHead reads one response head, informational or final, until the read deadline.
// All heads since Begin have at most limit bytes together: that, and not their number,
// bounds the informational ones. A malformed head is a *ProtocolError. After a deadline
// has passed it may be called again and goes on where it was.
func (c *Conn) ReadHead(h *Head, limit int) error {
	end, err := c.headEnd(limit)
	if err != nil {
		return err
	}
	if canonicalNames(c.buf[c.r:end]) {
		c.doubtful = true // others may have read the head in another way
	}
	// One string for the whole head: names and values are parts of it.
	text := string(c.buf[c.r:end])
	c.heads += end - c.r
	c.r = end
	if err := h.parse(text); err != nil {
		return err
	}
	if h.Status < 200 {
		c.doubtful = c.doubtful || h.framesInterim()
	}
	return nil
}

// headEnd reads until a whole head stands in the buffer and returns the index
// behind its empty line. The buffer grows only where a head needs it.
func (c *Conn) headEnd(limit int) (int, error) {
	// Offsets from c.r, which filling the buffer may move.
	line, scanned := 0, 0
	left := limit - c.heads
	for {
		unread := c.buf[c.r:c.w]
		for {
			i := bytes.IndexByte(unread[scanned:], '\n')
			if i < 0 {
				break
			}
			end := scanned + i + 1
			if end > left {
				return 0, c.headTooLarge(limit)
			}
			if blank := end - line; blank == 1 || blank == 2 && unread[line] == '\r' {
				return c.r + end, nil
			}
			line, scanned = end, end
		}
		if scanned = len(unread); scanned >= left {
			return 0, c.headTooLarge(limit)
		}
		c.makeRoom()
		if err := c.fill(); err != nil {
			return 0, c.headError(err)
		}
		if scanned < len(statusStart) && !beginsAsHTTP(c.buf[c.r:c.w]) {
			return 0, noHTTP(c.buf[c.r:c.w])
		}
	}
}

// statusStart is what every response begins with.
const statusStart = "HTTP/"

// beginsAsHTTP reports whether the first bytes may be those of a response.
func beginsAsHTTP(b []byte) bool {
	n := min(len(b), len(statusStart))
	return string(b[:n]) == statusStart[:n]
}

// noHTTP is the error of what begins in another way: another protocol is spoken there, and
// no end of a head will come.
func noHTTP(b []byte) error {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return &ProtocolError{Reason: fmt.Sprintf("status line %.40q", bytes.TrimSuffix(line, []byte("\r"))), NoHTTP: true}
}

func (c *Conn) headTooLarge(limit int) error {
	if c.heads > 0 {
		return tooLarge("informational responses and response head over %d bytes", limit)
	}
	return tooLarge("response head over %d bytes", limit)
}

// headError tells a connection that ended before anything came from one that
// ended within a head, or between an informational and the final one.
func (c *Conn) headError(err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case !c.heard:
		return ErrClosedBeforeResponse
	case c.r == c.w:
		return fmt.Errorf("%w after an informational response", io.ErrUnexpectedEOF)
	default:
		return fmt.Errorf("%w within the response head", io.ErrUnexpectedEOF)
	}
}

// makeRoom sees to it that fill has room.
func (c *Conn) makeRoom() {
	switch {
	case c.w < len(c.buf):
	case c.r > 0:
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	default:
		larger := make([]byte, 2*len(c.buf))
		copy(larger, c.buf[:c.w])
		c.buf = larger
	}
}

// canonicalNames brings the field names of a head into canonical form, in place:
// done later, it would cost a string for each name. It reports whether there was white
// space behind one of them.
func canonicalNames(head []byte) (spaced bool) {
	for i := bytes.IndexByte(head, '\n'); i >= 0; i = bytes.IndexByte(head, '\n') {
		head = head[i+1:]
		spaced = canonicalName(head) || spaced
	}
	return spaced
}

// canonicalName does so for one field line. What is no valid name stays as it is,
// to be shown in the error.
func canonicalName(line []byte) (spaced bool) {
	n := 0
	for n < len(line) && tokenByte[line[n]] {
		n++
	}
	colon := n
	for colon < len(line) && (line[colon] == ' ' || line[colon] == '\t') {
		colon++
	}
	if colon == len(line) || line[colon] != ':' {
		return false
	}
	upper := true
	for i, b := range line[:n] {
		if upper && 'a' <= b && b <= 'z' || !upper && 'A' <= b && b <= 'Z' {
			line[i] = b ^ 0x20
		}
		upper = b == '-'
	}
	return colon > n
}

// parse reads a complete head: status line, field lines, empty line.
func (h *Head) parse(text string) error {
	line, rest := cutLine(text)
	if err := h.parseStatusLine(line); err != nil {
		return err
	}
	fields, err := parseFields(h.Fields[:0], rest)
	h.Fields = fields
	return err
}

// cutLine cuts off the first line without its line end. A single LF counts as
// one (RFC 9112 §2.2 allows it); a CR elsewhere is refused with the value.
func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	line, rest = s[:i], s[i+1:]
	return strings.TrimSuffix(line, "\r"), rest
}

// parseStatusLine reads "HTTP/1.x NNN reason" (RFC 9112 §4). The reason phrase
// is checked and dropped: nothing may depend on it.
func (h *Head) parseStatusLine(line string) error {
	version, rest, ok := strings.Cut(line, " ")
	if !ok || len(version) != len("HTTP/1.1") || !strings.HasPrefix(version, "HTTP/1.") || !isDigit(version[7]) {
		return malformed("status line %.40q", line)
	}
	h.Minor = min(int(version[7]-'0'), 1)
	if len(rest) < 3 || !isDigit(rest[0]) || !isDigit(rest[1]) || !isDigit(rest[2]) || len(rest) > 3 && rest[3] != ' ' {
		return malformed("status code in %.40q", line)
	}
	h.Status = int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
	if h.Status < 100 {
		return malformed("status code in %.40q", line)
	}
	if !validValue(rest[3:]) {
		return malformed("control character in the reason phrase")
	}
	return nil
}

// parseFields appends the field lines of text, which ends with an empty line.
func parseFields(fields []Field, text string) ([]Field, error) {
	for {
		var line string
		line, text = cutLine(text)
		if line == "" {
			return fields, nil
		}
		if len(fields) == MaxFields {
			return fields, tooLarge("response head of over %d fields", MaxFields)
		}
		f, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, f)
	}
}

// parseField reads a field line whose name is in canonical form. White space between name
// and colon is dropped, as a proxy must do with responses (RFC 9112 §5.1).
func parseField(line string) (Field, error) {
	if line[0] == ' ' || line[0] == '\t' {
		return Field{}, malformed("obsolete line folding (RFC 9112 section 5.2)")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return Field{}, malformed("field line without a colon: %.40q", line)
	}
	if name = trimRight(name); !validName(name) {
		return Field{}, malformed("field name %.40q", name)
	}
	value = trim(value)
	if !validValue(value) {
		return Field{}, malformed("control character in the value of field %s", name)
	}
	return Field{Name: name, Value: value}, nil
}

// trim cuts spaces and tabs off both ends. strings.Trim makes a set of them first, which
// costs more than to look at the two bytes that are there.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	return trimRight(s)
}

func trimRight(s string) string {
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// IsName reports whether s is a token (RFC 9110 §5.6.2).
func validName(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

// validValue reports whether s has no control character but HTAB (RFC 9110
// §5.5): CR, LF and NUL above all.
func validValue[T string | []byte](s T) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}

var tokenByte = func() (t [256]bool) {
	for _, b := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[b] = true
	}
	return t
}()

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// ValidField reports whether a field may be written: its name is a token and
// its value has no control character but HTAB (RFC 9110 §5.1, §5.5).
func ValidField(name, value string) bool { return validName(name) && validValue(value) }

// AppendField appends one field line.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}
