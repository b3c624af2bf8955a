package target

import (
	"net"
	"net/http"
	"regexp"
	"strings"
)

// beforeAuthority is what stands before the authority of a request target, also of one
// that is written in an odd way.
var beforeAuthority = regexp.MustCompile(`^(?i:https?:/*|[a-z][a-z0-9+.-]*:/+|//+|)`)

// RedactedURI is the request target of a request, without what is or may have been meant
// as user information: passwords have question marks as well.
func RedactedURI(r *http.Request) string {
	uri := r.RequestURI
	if r.Method == http.MethodConnect {
		return Redacted(uri)
	}
	if strings.HasPrefix(uri, "/") && !strings.HasPrefix(uri, "//") {
		return uri // no authority is in it
	}
	before := beforeAuthority.FindString(uri)
	authority, _, _ := strings.Cut(uri[len(before):], "/")
	return before + Redacted(authority) + uri[len(before)+len(authority):]
}

// Redacted is an authority without the user information in it.
func Redacted(authority string) string {
	at := strings.LastIndexByte(authority, '@')
	if at < 0 {
		return authority
	}
	return "REDACTED" + authority[at:]
}

// Hostname is the host of an authority, without its port.
func Hostname(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}
