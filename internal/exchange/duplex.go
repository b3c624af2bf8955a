package exchange

import (
	"io"
	"net/http"
	"reflect"
	"time"
)

// touchesHeader reports whether reading the body may write to the header of the
// response: net/http's MaxBytesReader does so when its limit is passed, where
// nothing is between it and the HTTP/1 server (Caddy's request_body with both
// idle timeouts off and no access log). Then the body must not be read while a
// response is written.
func touchesHeader(body io.Reader) bool {
	limit := sizeLimit(body)
	if !limit.IsValid() {
		return false
	}
	w := limit.FieldByName("w")
	return w.IsValid() && w.Kind() == reflect.Interface && !w.IsNil() && w.Elem().Type().String() == "*http.response"
}

// sizeLimit is the outermost of net/http's MaxBytesReaders in the wrappers of a body. That
// is told nowhere, so this looks at fields that are not exported; where they are not what
// they are now, there is none, and TestTunnelBody fails.
func sizeLimit(body io.Reader) reflect.Value {
	v := reflect.ValueOf(body)
	for range 16 {
		for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			break
		}
		if v.Type().PkgPath() == "net/http" && v.Type().Name() == "maxBytesReader" {
			return v
		}
		if v = readerBelow(v); !v.IsValid() {
			break
		}
	}
	return reflect.Value{}
}

// TunnelBody is what the client of a CONNECT request sends in its stream. A limit for
// bodies (Caddy's request_body) is none for tunnels: where there is one, this is the reader
// that stands below all handlers. Where that is not known (nil), the limit holds.
func TunnelBody(r *http.Request, below io.Reader) io.Reader {
	if below != nil && sizeLimit(r.Body).IsValid() {
		return wholeBody(r, below)
	}
	return WholeBody(r)
}

var readerType = reflect.TypeFor[io.Reader]()

// readerBelow is the reader that a reader wraps: its first field that is one.
func readerBelow(v reflect.Value) reflect.Value {
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Interface && f.Type().Implements(readerType) && !f.IsNil() {
			return f
		}
	}
	return reflect.Value{}
}

// alone waits, where the body must not be read while a response is written, until
// it no longer is: for as long as the client takes to send it where the response
// is the origin's, and for as long as it is listened to where it is our own.
func (u *upload) alone(ours bool) {
	if !u.halfDuplex || u.done == nil || u.ended() {
		return
	}
	if ours {
		_ = u.rc.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	<-u.done
}
