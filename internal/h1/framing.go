package h1

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Framing is how the end of a response body is told (RFC 9112 §6.3).
type Framing uint8

// The framings.
const (
	NoBody     Framing = iota // HEAD, 1xx, 204, 304
	ByLength                  // Content-Length
	ByChunks                  // Transfer-Encoding: chunked
	UntilClose                // neither: the body ends with the connection
)

// Response is what the head of a final response says about what follows it.
type Response struct {
	Framing Framing
	// Length is the Content-Length field, also where there is no body (a
	// response to HEAD); -1 without one.
	Length int64
	// KeepAlive is the timeout that the peer promises in its Keep-Alive
	// field; 0 without one.
	KeepAlive time.Duration
}

// Frame works out the framing of the final response h to a request with the
// given method and prepares the body for reading. What leaves the framing in
// doubt is a *ProtocolError.
func (c *Conn) Frame(h *Head, method string) (Response, error) {
	f := framingFields{length: -1}
	for i := range h.Fields {
		if err := f.add(&h.Fields[i]); err != nil {
			return Response{}, err
		}
	}
	resp := Response{Length: f.length, KeepAlive: f.keepAlive}
	switch {
	case f.chunked && f.length >= 0:
		return resp, malformed("both Transfer-Encoding and Content-Length (RFC 9112 section 6.3)")
	case f.chunked && h.Minor == 0:
		return resp, malformed("Transfer-Encoding in an HTTP/1.0 response (RFC 9112 section 6.1)")
	case method == http.MethodHead || h.Status < 200 || h.Status == http.StatusNoContent || h.Status == http.StatusNotModified:
		resp.Framing = NoBody
	case f.chunked:
		resp.Framing = ByChunks
	case f.length >= 0:
		resp.Framing = ByLength
	default:
		resp.Framing = UntilClose
	}
	if h.Status == http.StatusNoContent && (f.chunked || f.length > 0) {
		c.doubtful = true // a body that it must not have may still come (RFC 9110 §8.6, RFC 9112 §6.1)
	}
	c.reusable = resp.Framing != UntilClose && !f.close && (h.Minor >= 1 || f.keepAliveToken)
	c.startBody(resp)
	return resp, nil
}

// framesInterim reports whether an informational head says what only a final one may:
// how long a body is, or that the connection ends (RFC 9112 §6.1, §6.2). A peer that
// believes it is elsewhere in the stream than this side.
func (h *Head) framesInterim() bool {
	for i := range h.Fields {
		switch f := &h.Fields[i]; f.Name {
		case "Content-Length", "Transfer-Encoding":
			return true
		case "Connection":
			if HasToken(f.Value, "close") {
				return true
			}
		}
	}
	return false
}

// framingFields gathers what decides about framing and persistence.
type framingFields struct {
	length         int64
	chunked        bool
	close          bool
	keepAliveToken bool
	keepAlive      time.Duration
}

func (f *framingFields) add(field *Field) error {
	switch field.Name {
	case "Content-Length":
		return f.addLength(field.Value)
	case "Transfer-Encoding":
		// We never send TE with a coding, so chunked, once, is all that a
		// response may use.
		if f.chunked || !equalFold(field.Value, "chunked") {
			return malformed("Transfer-Encoding %.40q", field.Value)
		}
		f.chunked = true
	case "Connection":
		f.close = f.close || HasToken(field.Value, "close")
		f.keepAliveToken = f.keepAliveToken || HasToken(field.Value, "keep-alive")
	case "Keep-Alive":
		if t := keepAliveTimeout(field.Value); t > 0 && (f.keepAlive == 0 || t < f.keepAlive) {
			f.keepAlive = t
		}
	}
	return nil
}

// addLength takes a Content-Length value; a list of equal numbers counts as one
// (RFC 9112 §6.3), anything else is an error.
func (f *framingFields) addLength(value string) error {
	for part := range strings.SplitSeq(value, ",") {
		n, ok := parseLength(strings.Trim(part, " \t"))
		if !ok {
			return malformed("Content-Length %.40q", value)
		}
		if f.length >= 0 && f.length != n {
			return malformed("differing Content-Length values (RFC 9112 section 6.3)")
		}
		f.length = n
	}
	return nil
}

// parseLength reads 1*DIGIT; signs and spaces, which strconv takes, are no
// digits.
func parseLength(s string) (int64, bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// keepAliveTimeout reads the timeout parameter of a Keep-Alive field (RFC 2068
// §19.7.1.1), in whole seconds; 0 where there is none.
func keepAliveTimeout(value string) time.Duration {
	for part := range strings.SplitSeq(value, ",") {
		name, arg, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if !equalFold(strings.TrimSpace(name), "timeout") {
			continue
		}
		if n, ok := parseLength(strings.Trim(arg, " \t\"")); ok && n > 0 && n < 1<<31 {
			return time.Duration(n) * time.Second
		}
	}
	return 0
}

// HasToken reports whether a comma-separated list has token, in any case.
func HasToken(list, token string) bool {
	if len(list) == len(token) {
		return equalFold(list, token)
	}
	for part := range strings.SplitSeq(list, ",") {
		if equalFold(strings.Trim(part, " \t"), token) {
			return true
		}
	}
	return false
}

// equalFold compares without regard to the case of ASCII letters only.
// strings.EqualFold also takes the Kelvin sign for a k and a long s for an s,
// which no other parser of the same message does.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}
