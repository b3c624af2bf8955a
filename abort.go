package egress

import (
	"net/http"
	"reflect"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains what becomes of a response that cannot be completed.

// abort breaks the client's connection or stream, without returning: a client with a
// head that promises more than will come must see that it is broken. What the log counts
// as sent is sent before.
func (t *transaction) abort() {
	t.aborted = true
	if t.committed && t.out.failure != failCanceled {
		t.flush()
		t.resetHTTP10()
	}
	panic(http.ErrAbortHandler)
}

// resetHTTP10 resets the connection of an HTTP/1.0 client. Without chunks the end of the
// connection may be all that tells the end of a body, so a regular end, or TLS's closure
// alert, would make a part look whole.
func (t *transaction) resetHTTP10() {
	if t.r.ProtoMajor != 1 || t.r.ProtoAtLeast(1, 1) {
		return
	}
	if t.upload != nil {
		t.upload.join(false) // it reads from the connection
	}
	if conn, _, err := t.hijack(); err == nil {
		relay.Reset(asStream(innermostConn(conn)))
	}
}

// encodePackage is where Caddy's encoding writer is defined. Its type is not exported.
var encodePackage = caddyHTTPPackage + "/encode"

// takeBack takes back the head of a response that was handed to the writer, and reports
// whether it could: Caddy's encode keeps a head, whatever is flushed, until the first byte
// of a body comes. Of any other writer it is assumed that a head is out.
func (t *transaction) takeBack() bool {
	if t.out.bytesDown > 0 || !holdsHead(t.w) {
		return false
	}
	clear(t.w.Header())
	t.committed = false
	return true
}

// holdsHead reports whether a writer is encode's and has not passed a head on.
func holdsHead(w http.ResponseWriter) bool {
	v := reflect.ValueOf(w)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || v.Elem().Type().PkgPath() != encodePackage {
		return false
	}
	wrote := v.Elem().FieldByName("wroteHeader")
	return wrote.Kind() == reflect.Bool && !wrote.Bool()
}
