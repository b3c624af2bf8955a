package egress

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/relay"
)

// finish accounts for the request and, where it failed, tells the client. It
// is the last step of every request of ours.
func (t *transaction) finish(err error) error {
	if t.Conclude(err); err == nil {
		return nil
	}
	if t.Outcome.Failure.Blame != failure.BlameProxy {
		t.OthersFailed()
	}
	if t.Committed || t.Outcome.Failure == failure.Canceled {
		t.abort()
	}
	t.writeFailure()
	return nil
}

// OthersFailed implements observer: it keeps the access-log line at Info, which Caddy would raise to Error
// for every status from 500 on: what others did is no error of this server.
func (t *transaction) OthersFailed() {
	if t.logged() {
		caddyhttp.SetVar(t.HTTP.Context(), caddyhttp.LogLevelVar, "INFO")
	}
}

// writeFailure answers with status, Proxy-Status and a sentence. It writes the
// answer itself: a returned error would leave the body to Caddy, which leaves
// it empty.
func (t *transaction) writeFailure() {
	f := t.Outcome.Failure
	header := t.Writer.Header()
	header.Set("Proxy-Status", t.h.ServerName+"; error="+f.Type+"; details="+plaintext.Quoted(f.Text))
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	if f == failure.Auth {
		header.Set("Proxy-Authenticate", t.h.Auth.challenge())
	}
	if after := core.RetryAfter(t.Outcome.Err); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	linger := t.CloseClient()
	body := f.Text + "\n"
	if t.Target.Host != "" {
		body = t.Target.String() + ": " + body
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	t.Writer.WriteHeader(f.Status)
	if t.HTTP.Method != http.MethodHead {
		_, _ = io.WriteString(t.Writer, body)
	}
	if linger {
		t.Linger()
	}
}

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
		relay.Reset(relay.StreamOf(layers.Innermost(conn)))
	}
}
