package exchange

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/tracing"
)

// hopByHop reports whether a field is about one connection only and is never
// forwarded, in either direction (RFC 9110 §7.6.1, §11.7). TE and Trailer are
// looked at separately.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Transfer-Encoding", "Te", "Upgrade",
		"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info", "Http2-Settings":
		return true
	}
	return false
}

// essential reports whether a field stays even if Connection lists it: removing
// it would change what the message means, or who it is for.
func essential(name string) bool {
	switch name {
	case "Host", "Content-Length", "Content-Type", "Content-Encoding", "Content-Range", "Authorization",
		"Cookie", "Set-Cookie", "Cache-Control", "Expect", "Max-Forwards", "Via", "Forwarded", "Date", "Location":
		return true
	}
	return false
}

// connectionOptions are the field names that Connection lists, in canonical form. The
// other side may list very many: these are sorted, to be found without a look at each.
type connectionOptions []string

// fewOptions are as quickly looked through as searched.
const fewOptions = 16

// add takes one value of Connection.
func (options connectionOptions) add(value string) connectionOptions {
	for option := range strings.SplitSeq(value, ",") {
		option = strings.Trim(option, " \t")
		if option == "" || strings.EqualFold(option, "close") || strings.EqualFold(option, "keep-alive") {
			continue
		}
		if name := http.CanonicalHeaderKey(option); !essential(name) {
			options = append(options, name)
		}
	}
	return options
}

// optionsOf are those of a response.
func optionsOf(hd *h1.Head) (options connectionOptions) {
	for i := range hd.Fields {
		if hd.Fields[i].Name == "Connection" {
			options = options.add(hd.Fields[i].Value)
		}
	}
	options.complete()
	return options
}

// complete must be called when all values were added.
func (options connectionOptions) complete() {
	if len(options) > fewOptions {
		slices.Sort(options)
	}
}

// has reports whether name is among the options.
func (options connectionOptions) has(name string) bool {
	if len(options) > fewOptions {
		_, found := slices.BinarySearch(options, name)
		return found
	}
	return slices.Contains(options, name)
}

// namesConnectionAuth reports whether a scheme is named that authenticates the
// connection and not the request: NTLM, and Negotiate, which often means it (RFC
// 4559). Such a connection is pinned to its client.
func namesConnectionAuth(values []string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			scheme, _, _ := strings.Cut(strings.Trim(part, " \t"), " ")
			if strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate") {
				return true
			}
		}
	}
	return false
}

// authenticatesConnection is the same of a response.
func authenticatesConnection(hd *h1.Head) bool {
	for i := range hd.Fields {
		if f := &hd.Fields[i]; f.Name == "Www-Authenticate" && namesConnectionAuth([]string{f.Value}) {
			return true
		}
	}
	return false
}

// appendRequestHead writes the head of the request to the origin: method and
// target, Host from the target (RFC 9112 §3.2.2), the client's end-to-end
// fields, our Via and Forwarded, and one canonical framing.
func (t *Exchange) appendRequestHead(b []byte) ([]byte, error) {
	r := t.HTTP
	requestTarget, err := t.requestTarget()
	if err != nil {
		return b, err
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	if t.Absolute() {
		b = append(b, "http://"...)
		b = t.AppendHost(b)
		if requestTarget == "*" {
			requestTarget = "" // RFC 9112 §3.2.4
		}
	}
	b = append(b, requestTarget...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = t.AppendHost(b)
	b = append(b, '\r', '\n')
	if b, err = t.appendEndToEnd(b); err != nil {
		return b, err
	}
	if t.Absolute() {
		b = t.Ways.Current.AppendFields(b)
	}
	if !t.Proxy.HideVia {
		b = h1.AppendField(b, "Via", t.Proxy.Via.Request[core.VersionIndex(r)])
	}
	if t.Proxy.TellsOfClients() {
		b = append(t.AppendForwarded(append(b, "Forwarded: "...)), '\r', '\n')
	}
	if t.Early {
		b = h1.AppendField(b, EarlyData, "1")
	}
	return append(t.appendFraming(b), '\r', '\n'), nil
}

// checkHead refuses what could be sent on no path before one is chosen: it must not be
// the probe of a circuit, which would learn nothing from it. Header fields of clients
// were checked by the server; where the route changes them, all is tried.
func (t *Exchange) checkHead(buf []byte) (err error) {
	if t.RequestChange() == nil {
		_, err = t.requestTarget()
	} else {
		_, err = t.appendRequestHead(buf[:0])
	}
	return err
}

// appendEndToEnd writes the client's fields without those that end here.
func (t *Exchange) appendEndToEnd(b []byte) ([]byte, error) {
	header, options := t.requestHeader()
	own := t.ProxyFields()
	lines := 0
	for name, values := range header {
		if hopByHop(name) || name == "Content-Length" || name == "Host" || name == "Max-Forwards" || name == EarlyData || options.has(name) || own[name] != nil {
			continue
		}
		if lines += len(values); lines > h1.MaxFields {
			return b, failure.Fields.Because(fmt.Errorf("over %d", h1.MaxFields))
		}
		for _, value := range values {
			if !h1.ValidField(name, value) {
				return b, failure.Request.Because(fmt.Errorf("field %q has a control character or no valid name", name))
			}
			if name == tracing.ParentField {
				value = t.TraceParent(value)
			}
			b = h1.AppendField(b, name, value)
		}
	}
	if n, ok := t.MaxForwards(); ok {
		b = h1.AppendField(b, "Max-Forwards", strconv.FormatUint(n-1, 10))
	} else if values := t.HTTP.Header["Max-Forwards"]; len(values) > 0 && h1.ValidField("Max-Forwards", values[0]) {
		b = h1.AppendField(b, "Max-Forwards", values[0])
	}
	// RFC 9110 §10.1.4, §7.8: who sends TE or Upgrade also lists it in Connection.
	trailers, protocols := wantsTrailers(t.HTTP.Header), ""
	if t.upgrade != nil {
		protocols = t.upgrade.protocols
	}
	if trailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	if protocols != "" {
		b = h1.AppendField(b, "Upgrade", protocols)
	}
	switch {
	case trailers && protocols != "":
		b = append(b, "Connection: TE, Upgrade\r\n"...)
	case trailers:
		b = append(b, "Connection: TE\r\n"...)
	case protocols != "":
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	return b, nil
}

// wantsTrailers reports whether TE has the member trailers.
func wantsTrailers(header http.Header) bool {
	for _, v := range header["Te"] {
		if h1.HasToken(v, "trailers") {
			return true
		}
	}
	return false
}

// appendFraming writes the one field that tells how long the body is.
func (t *Exchange) appendFraming(b []byte) []byte {
	switch {
	case t.HTTP.ContentLength > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, t.HTTP.ContentLength, 10)
	case !t.BodyRead, t.upload != nil: // the attempt before may have read it to its end
		b = append(b, "Transfer-Encoding: chunked"...)
	case t.HTTP.Header["Content-Length"] != nil:
		// An empty body that the client said in so many words.
		b = append(b, "Content-Length: 0"...)
	default:
		return b
	}
	return append(b, '\r', '\n')
}

// errRequestTarget refuses what cannot stand in a request line.
var errRequestTarget = errors.New("space, control character or fragment in the path")

// requestTarget is path and query exactly as the client wrote them. An OPTIONS
// request for a whole server becomes `*` (RFC 9112 §3.2.4).
func (t *Exchange) requestTarget() (string, error) {
	target := t.HTTP.RequestURI
	switch {
	case target == "" || target[0] == '/' || target == "*":
	case t.HTTP.URL.Scheme != "":
		target = afterAuthority(target)
	default:
		target = ""
	}
	switch {
	case t.HTTP.Method == http.MethodOptions && (target == "" || target == "*"):
		return "*", nil
	case target == "*":
		return "", failure.Target.Because(errors.New("* is for OPTIONS only (RFC 9112 section 3.2.4)"))
	case target == "":
		target = "/"
	case target[0] == '?':
		target = "/" + target
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", failure.Target.Because(errRequestTarget)
		}
	}
	if !plaintext.IsToken(t.HTTP.Method) {
		return "", failure.Request.Because(fmt.Errorf("method %q is no token", t.HTTP.Method))
	}
	return target, nil
}

// afterAuthority cuts scheme and authority off an absolute URI.
func afterAuthority(uri string) string {
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return ""
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return ""
	}
	return rest[i:]
}

// MaxForwards is the Max-Forwards of a request for which it means something
// (RFC 9110 §7.6.2).
func (t *Exchange) MaxForwards() (uint64, bool) {
	if t.HTTP.Method != http.MethodTrace && t.HTTP.Method != http.MethodOptions {
		return 0, false
	}
	values := t.HTTP.Header["Max-Forwards"]
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(values[0], 10, 32)
	return n, err == nil
}

// EarlyData tells the next server that a request may be a replay.
const EarlyData = "Early-Data"
