package egress

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
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
	header.Set("Proxy-Status", t.h.ServerName+"; error="+f.Type+"; details="+quotedString(f.Text))
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

// quotedString writes s as an sf-string (RFC 8941 §3.3.3). Our own texts are
// ASCII; anything else is replaced.
func quotedString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
