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
func (in *incoming) finish(err error) error {
	if in.Conclude(err); err == nil {
		return nil
	}
	if in.Outcome.Failure.Blame != failure.BlameProxy {
		in.OthersFailed()
	}
	if in.Committed || in.Outcome.Failure == failure.Canceled {
		in.abort()
	}
	in.writeFailure()
	return nil
}

// OthersFailed implements observer: it keeps the access-log line at Info, which Caddy would raise to Error
// for every status from 500 on: what others did is no error of this server.
func (in *incoming) OthersFailed() {
	if in.logged() {
		in.Guard(func() { caddyhttp.SetVar(in.HTTP.Context(), caddyhttp.LogLevelVar, "INFO") })
	}
}

// writeFailure answers with status, Proxy-Status and a sentence. It writes the
// answer itself: a returned error would leave the body to Caddy, which leaves
// it empty.
func (in *incoming) writeFailure() {
	f := in.Outcome.Failure
	header := in.Writer.Header()
	header.Set("Proxy-Status", in.h.ServerName+"; error="+f.Type+"; details="+plaintext.Quoted(f.Text))
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	if f == failure.Auth {
		header.Set("Proxy-Authenticate", in.h.Auth.challenge())
	}
	if after := core.RetryAfter(in.Outcome.Err); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	linger := in.CloseClient()
	body := f.Text + "\n"
	if in.Target.Host != "" {
		body = in.Target.String() + ": " + body
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	in.Outcome.Status = uint16(f.Status)
	in.Writer.WriteHeader(f.Status)
	if in.HTTP.Method != http.MethodHead {
		_, _ = io.WriteString(in.Writer, body)
	}
	if linger {
		in.Linger()
	}
}

// abort breaks the client's connection or stream, without returning: a client with a
// head that promises more than will come must see that it is broken. What the log counts
// as sent is sent before.
func (in *incoming) abort() {
	in.Aborted = true
	if in.Committed && in.Outcome.Failure != failure.Canceled {
		in.Flush()
		in.resetHTTP10()
	}
	in.logBroken()
	panic(http.ErrAbortHandler)
}

// resetHTTP10 resets the connection of an HTTP/1.0 client. Without chunks the end of the
// connection may be all that tells the end of a body, so a regular end, or TLS's closure
// alert, would make a part look whole.
func (in *incoming) resetHTTP10() {
	if in.HTTP.ProtoMajor != 1 || in.HTTP.ProtoAtLeast(1, 1) {
		return
	}
	in.EndUpload(false) // it reads from the connection
	if conn, _, err := in.hijack(); err == nil {
		relay.Reset(relay.StreamOf(layers.Innermost(conn)))
	}
}
