package proxydial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/caddy-egress/egress/internal/h1"
)

// Stage is how far an attempt came.
type Stage uint8

// The stages, in their order.
const (
	// StageDial: the connection to the proxy could not be made, or had to be
	// waited for in vain.
	StageDial Stage = iota + 1
	// StageProxyProtocol: the PROXY protocol header could not be written.
	StageProxyProtocol
	// StageTLS: the TLS handshake failed.
	StageTLS
	// StageNegotiate: what comes before the request failed: the SETTINGS of
	// HTTP/2, the choice of a SOCKS method.
	StageNegotiate
	// StageLogin: user and password were sent to a SOCKS proxy, and it has not said what
	// it thinks of them.
	StageLogin
	// StageAuth: the proxy wants other credentials: 407, the 401 that tinyproxy
	// says to wrong ones, or what SOCKS has for it.
	StageAuth
	// StageReply: the request was written, or was about to be, and there was no
	// reply, one that cannot be understood, or a refusal.
	StageReply
)

func (s Stage) String() string {
	switch s {
	case StageDial:
		return "dial"
	case StageProxyProtocol:
		return "proxy_protocol"
	case StageTLS:
		return "tls"
	case StageNegotiate:
		return "negotiate"
	case StageLogin:
		return "login"
	case StageAuth:
		return "auth"
	case StageReply:
		return "reply"
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}

// Error is what DialTunnel and DialProxy return, except for ErrClosed, bad
// arguments (*ArgumentError) and fields that are too large (*HeadSizeError). What Err wraps tells causes apart:
//
//	*ReplyError          the proxy answered, and not with a 2xx (407, 401: StageAuth)
//	*SOCKSError          the same in SOCKS
//	*MalformedError      an answer that breaks its protocol, or is too large
//	io.EOF, io.ErrUnexpectedEOF   the proxy closed before, or within, its answer
//	context.Canceled     the caller gave up
//	Timeout() is true    an answer, or the connection, did not come in time
type Error struct {
	// Stage is where it ended.
	Stage Stage
	// Err is why.
	Err error
	// Sent is true where the proxy may have read the request for the
	// destination.
	Sent bool
	// Retryable is true where the proxy has promised that it did nothing with
	// the request: HTTP/2 GOAWAY or REFUSED_STREAM (RFC 9113 §8.7).
	Retryable bool

	lost bool // a connection shared with others has ended under the request
}

func (e *Error) Error() string {
	stage := e.Stage.String() + ": "
	return "upstream proxy: " + stage + strings.TrimPrefix(e.Err.Error(), stage) // crypto/tls says it as well
}
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether time ran out, be it that of the context or of the
// configuration.
func (e *Error) Timeout() bool {
	ne, ok := errors.AsType[net.Error](e.Err)
	return ok && ne.Timeout() || errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, os.ErrDeadlineExceeded)
}

// ErrClosed is returned for what begins after Close.
var ErrClosed = errors.New("upstream proxy: dialer is closed")

// ArgumentError says what is wrong with a request, before anything was dialed.
type ArgumentError struct{ Reason string }

func (e *ArgumentError) Error() string { return "upstream proxy: " + e.Reason }

func badArgument(format string, args ...any) error {
	return &ArgumentError{fmt.Sprintf(format, args...)}
}

// HeadSizeError is a CONNECT that was not sent, since the fields that the caller gave
// make it larger than the proxy takes, or than anybody should send. It says nothing
// about the proxy.
type HeadSizeError struct{ Size, Limit int }

func (e *HeadSizeError) Error() string {
	return fmt.Sprintf("upstream proxy: header fields of CONNECT are %d bytes, over %d", e.Size, e.Limit)
}

// MalformedError says what in an answer breaks the protocol.
type MalformedError struct {
	Reason string
	// TooLarge is true where a limit was passed rather than a rule broken.
	TooLarge bool
}

func (e *MalformedError) Error() string { return "malformed reply: " + e.Reason }

func malformed(format string, args ...any) error {
	return &MalformedError{Reason: fmt.Sprintf(format, args...)}
}

// Reply is what the head of the final answer to CONNECT says. For SOCKS it is
// zero.
type Reply struct {
	// Status is the status code, from 100 to 999; 0 for SOCKS.
	Status int
	// ProxyStatus joins the Proxy-Status fields (RFC 9209) with commas.
	ProxyStatus string
	// RetryAfter, SquidError (X-Squid-Error), Via, Server and Authenticate
	// (Proxy-Authenticate) are the fields of that name, joined likewise.
	RetryAfter, SquidError, Via, Server, Authenticate string
	// BodyLess is true where the answer surely has no content.
	BodyLess bool
}

// ReplyError is an answer to CONNECT that is no 2xx.
type ReplyError struct{ Reply }

func (e *ReplyError) Error() string {
	s := fmt.Sprintf("status %d", e.Status)
	if kind := e.ProxyError(); kind != "" {
		s += " (" + kind + ")"
	}
	return s
}

// stage is StageAuth where credentials were refused. A 401 to a CONNECT can only
// be about them: there is no origin yet.
func (e *ReplyError) stage() Stage {
	if e.Status == 407 || e.Status == 401 {
		return StageAuth
	}
	return StageReply
}

// Evident reports whether an answer to an exchange shows that the proxy itself made it,
// and not an origin: it has an X-Squid-Error, or a Proxy-Status with an error. Behind a
// Via, that must be the error of the nearest proxy and name it, or it may have come
// through that one. An empty body proves nothing.
func (r *Reply) Evident() bool {
	return r.SquidError != "" || r.ProxyError() != "" && (r.Via == "" || r.namesNearest())
}

// namesNearest reports whether the nearest proxy in Via is the one whose error the last
// member of Proxy-Status tells.
func (r *Reply) namesNearest() bool {
	list, err := httpsfv.UnmarshalList([]string{r.ProxyStatus})
	if err != nil || len(list) == 0 {
		return false
	}
	item, ok := list[len(list)-1].(httpsfv.Item)
	if !ok {
		return false
	}
	if _, failed := item.Params.Get("error"); !failed {
		return false
	}
	name := ""
	switch v := item.Value.(type) {
	case httpsfv.Token:
		name = string(v)
	case string:
		name = v
	}
	// Via: the protocol, and who received it (RFC 9110 §7.6.3), perhaps with a port.
	nearest := strings.Fields(r.Via[strings.LastIndexByte(r.Via, ',')+1:])
	if len(nearest) < 2 || name == "" {
		return false
	}
	host, _, _ := strings.Cut(nearest[1], ":")
	return strings.EqualFold(name, nearest[1]) || strings.EqualFold(name, host)
}

// ProxyError is the error type in Proxy-Status (RFC 9209 §2.3), such as
// "dns_error" or "proxy_internal_error", and empty without one. Of several
// proxies, the one nearest to us that names an error counts.
func (r *Reply) ProxyError() string {
	kind, _ := r.proxyError()
	return kind
}

// ProxyParam is what a parameter beside ProxyError says, such as details or rcode, and empty
// without.
func (r *Reply) ProxyParam(name string) string {
	_, item := r.proxyError()
	if item.Params == nil {
		return ""
	}
	value, _ := item.Params.Get(name)
	switch v := value.(type) {
	case httpsfv.Token:
		return string(v)
	case string:
		return v
	}
	return ""
}

func (r *Reply) proxyError() (kind string, of httpsfv.Item) {
	if r.ProxyStatus == "" {
		return "", of
	}
	list, err := httpsfv.UnmarshalList([]string{r.ProxyStatus})
	if err != nil {
		return "", of
	}
	for i := len(list) - 1; i >= 0; i-- {
		item, ok := list[i].(httpsfv.Item)
		if !ok {
			continue
		}
		value, _ := item.Params.Get("error")
		switch v := value.(type) {
		case httpsfv.Token:
			return strings.ToLower(string(v)), item
		case string:
			return strings.ToLower(v), item
		}
	}
	return "", of
}

// take fills in what the fields of the answer say. Their names are in canonical form.
func (r *Reply) take(fields []h1.Field) {
	again := false
	for i := range fields {
		f := &fields[i]
		if f.Name == "Content-Length" {
			r.BodyLess = f.Value == "0"
			continue
		}
		switch list := r.list(f.Name); {
		case list == nil:
		case *list == "":
			*list = f.Value
		default:
			again = true
		}
	}
	if again {
		r.joinAll(fields)
	}
}

// joinAll joins the values of fields that came more than once: at once, since the other
// side decides how many there are.
func (r *Reply) joinAll(fields []h1.Field) {
	values := make(map[string][]string)
	for i := range fields {
		if f := &fields[i]; f.Value != "" && r.list(f.Name) != nil {
			values[f.Name] = append(values[f.Name], f.Value)
		}
	}
	for name, all := range values {
		*r.list(name) = strings.Join(all, ", ")
	}
}

// list is where the values of a field are joined, nil for one that tells nothing.
func (r *Reply) list(name string) *string {
	switch name {
	case "Proxy-Status":
		return &r.ProxyStatus
	case "Retry-After":
		return &r.RetryAfter
	case "X-Squid-Error":
		return &r.SquidError
	case "Server":
		return &r.Server
	case "Via":
		return &r.Via
	case "Proxy-Authenticate":
		return &r.Authenticate
	}
	return nil
}

// SOCKSError is a refusal by a SOCKS5 proxy.
type SOCKSError struct{ Code SOCKSCode }

func (e *SOCKSError) Error() string { return "socks: " + e.Code.String() }

// SOCKSCode is a reply of RFC 1928 §6, or one of the refusals that come before.
type SOCKSCode int

// The codes of RFC 1928 §6, and below zero those that have no number there.
const (
	SOCKSGeneralFailure       SOCKSCode = 1
	SOCKSNotAllowed           SOCKSCode = 2
	SOCKSNetUnreachable       SOCKSCode = 3
	SOCKSHostUnreachable      SOCKSCode = 4
	SOCKSRefused              SOCKSCode = 5
	SOCKSTTLExpired           SOCKSCode = 6
	SOCKSCommandNotSupported  SOCKSCode = 7
	SOCKSAddrTypeNotSupported SOCKSCode = 8
	// SOCKSNoMethod: the proxy takes none of the methods that we offer (X'FF').
	SOCKSNoMethod SOCKSCode = -1
	// SOCKSBadCredentials: the proxy refused user and password (RFC 1929 §2).
	SOCKSBadCredentials SOCKSCode = -2
)

var socksTexts = map[SOCKSCode]string{
	SOCKSGeneralFailure:       "general failure",
	SOCKSNotAllowed:           "not allowed by its rules",
	SOCKSNetUnreachable:       "network unreachable",
	SOCKSHostUnreachable:      "host unreachable",
	SOCKSRefused:              "connection refused",
	SOCKSTTLExpired:           "TTL expired",
	SOCKSCommandNotSupported:  "command not supported",
	SOCKSAddrTypeNotSupported: "address type not supported",
	SOCKSNoMethod:             "no acceptable authentication method",
	SOCKSBadCredentials:       "user and password refused",
}

func (c SOCKSCode) String() string {
	if s, ok := socksTexts[c]; ok {
		return s
	}
	return fmt.Sprintf("reply code %d", int(c))
}
