package clientend

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// This file contains the server's own writer of a response: what is taken from it, and what
// is seen of it.

// InnermostWriter is the server's own writer below all wrappers.
func InnermostWriter(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// Hijack takes the client's connection over, from the innermost writer: Caddy's recorder
// would hand out a wrapper that hides CloseWrite and the socket. It returns what the client
// has sent already as well.
func Hijack(w http.ResponseWriter) (conn net.Conn, early []byte, err error) {
	hijacker, ok := InnermostWriter(w).(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over: " + reflect.TypeOf(w).String())
	}
	conn, brw, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, layers.Buffered(brw.Reader), nil
}

// TakenForOrigin reports whether the client of an HTTP/2 or HTTP/3 request is known
// to mean https, and so takes this server for the origin itself: it has named the
// host in its TLS handshake, or, on HTTP/2, its :scheme can be told.
func TakenForOrigin(w http.ResponseWriter, r *http.Request, host string) bool {
	return r.TLS != nil && (host != "" && strings.EqualFold(r.TLS.ServerName, host) || sharesTLSState(w, r.TLS))
}

// sharesTLSState reports whether a request has the TLS state of its HTTP/2
// connection. The HTTP/2 server hands it to requests for https only; those for
// http get a copy of their own from net/http. That is told nowhere else, so this
// looks at fields that are not exported, and only to refuse: where they are not
// what they are now, the answer is no.
func sharesTLSState(w http.ResponseWriter, state *tls.ConnectionState) bool {
	v := reflect.ValueOf(InnermostWriter(w))
	for _, name := range [...]string{"rws", "conn", "tlsState"} {
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return false
		}
		if v = v.Elem().FieldByName(name); !v.IsValid() {
			return false
		}
	}
	return v.Kind() == reflect.Pointer && v.Pointer() == reflect.ValueOf(state).Pointer()
}
