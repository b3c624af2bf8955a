package egress

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/caddy-egress/egress/internal/failure"
)

// errNoLength is a request of HTTP/1.0 whose body cannot be seen: net/http drops the
// Transfer-Encoding of that version, and what follows as well (RFC 9112 §6.1).
var errNoLength = errors.New("an HTTP/1.0 request with this method needs a Content-Length (RFC 1945 section 7.2.2)")

// checkLength refuses a request of which Go's server has let the body get lost: it would
// leave without, and be taken for whole.
func checkLength(r *http.Request) error {
	values := r.Header["Content-Length"]
	switch {
	case r.ProtoAtLeast(2, 0):
		return checkLengths(values, r.ContentLength)
	case r.ProtoAtLeast(1, 1) || values != nil || r.ContentLength != 0:
		return nil
	}
	if r.Method == http.MethodConnect || safeMethod(r.Method) {
		return nil // a body would mean nothing
	}
	return failure.Request.Because(errNoLength)
}

// checkLengths compares the Content-Length of a request on HTTP/2 or HTTP/3 with what the
// server has made of it: on HTTP/2 it is 0 where the value is no number, or the request ends
// with its head, and the first one of several (RFC 9113 §8.1.1, RFC 9110 §8.6). Handlers
// before this one may have given the request another body, with a length of its own.
func checkLengths(values []string, taken int64) error {
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 {
		return failure.Request.Because(errors.New("more than one Content-Length"))
	}
	n, err := strconv.ParseUint(values[0], 10, 63) // digits only: no sign, no space
	if err != nil {
		return failure.Request.Because(fmt.Errorf("Content-Length %.40q is no length", values[0]))
	}
	if n > 0 && taken == 0 {
		return failure.Request.Because(fmt.Errorf("Content-Length is %d, but there is no body", n))
	}
	return nil
}
