package exchange

import (
	"io"
	"net/http"
	"reflect"
)

// WholeBody is the body of a request, in which an end of an HTTP/3 stream within a DATA
// frame is no end of the body, but an error (RFC 9114 §7.1). quic-go gives io.EOF for both.
// So it does for an end between type and length of a frame, and within one that it skips:
// what it has read of those stands in no field, so they are not told apart here.
func WholeBody(r *http.Request) io.Reader { return wholeBody(r, r.Body) }

func wholeBody(r *http.Request, body io.Reader) io.Reader {
	if r.ProtoMajor != 3 || r.Body == nil {
		return body
	}
	return wholeFrames{body}
}

type wholeFrames struct{ body io.Reader }

func (w wholeFrames) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if err == io.EOF && restOfFrame(w.body) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// restOfFrame is how many bytes of a DATA frame that has begun a body has not read. That
// is told nowhere, so this looks at fields of quic-go that are not exported; where they are
// not what they are now, it is 0, and TestWholeBody fails.
func restOfFrame(body io.Reader) uint64 {
	v := reflect.ValueOf(body)
	for range 16 {
		for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return 0
		}
		if v.Type().PkgPath() == "github.com/quic-go/quic-go/http3" {
			if v.Type().Name() != "requestBody" {
				return 0
			}
			str := v.FieldByName("str") // of the body that is embedded
			if str.Kind() != reflect.Pointer || str.IsNil() || str.Elem().Kind() != reflect.Struct {
				return 0
			}
			rest := str.Elem().FieldByName("bytesRemainingInFrame")
			if rest.Kind() != reflect.Uint64 {
				return 0
			}
			return rest.Uint()
		}
		if v = readerBelow(v); !v.IsValid() {
			return 0
		}
	}
	return 0
}
