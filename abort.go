package egress

import (
	"net/http"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains what becomes of a response that cannot be completed.

// abort breaks the client's connection or stream, without returning: a client with a
// head that promises more than will come must see that it is broken. What the log counts
// as sent is sent before.
func (t *transaction) abort() {
	t.Aborted = true
	if t.Committed && t.Outcome.Failure != failure.Canceled {
		t.Flush()
		t.resetHTTP10()
	}
	panic(http.ErrAbortHandler)
}

// resetHTTP10 resets the connection of an HTTP/1.0 client. Without chunks the end of the
// connection may be all that tells the end of a body, so a regular end, or TLS's closure
// alert, would make a part look whole.
func (t *transaction) resetHTTP10() {
	if t.HTTP.ProtoMajor != 1 || t.HTTP.ProtoAtLeast(1, 1) {
		return
	}
	t.EndUpload(false) // it reads from the connection
	if conn, _, err := t.hijack(); err == nil {
		relay.Reset(asStream(innermostConn(conn)))
	}
}
