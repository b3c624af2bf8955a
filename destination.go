package egress

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the one view of the destination: whoever looks at the request
// from here on (matchers, selection policies, header settings, loggers by host) sees
// what will be dialed, in its canonical form, and not the spelling of the client.

// maxHostField is the longest Host field: a name of 253 bytes, a colon and a port.
const maxHostField = 253 + 1 + 5

// showDestination makes the Host of the request what the destination is sent as Host:
// without a port that is the scheme's own, except for CONNECT.
func (t *transaction) showDestination() {
	var buf [maxHostField]byte
	shown := buf[:0]
	if t.Use == upstream.Tunnel {
		shown = t.AppendAuthority(shown)
	} else {
		shown = t.AppendHost(shown)
	}
	if string(shown) == t.HTTP.Host {
		return
	}
	t.rawHost = t.HTTP.Host
	t.HTTP.Host = string(shown)
	if t.HTTP.URL.Host != "" {
		t.HTTP.URL.Host = t.HTTP.Host
	}
	t.showInPlaceholders()
	t.logByDestination()
}

// hostPlaceholder is the host in the Host of a request; its labels are below it.
const hostPlaceholder = "http.request.host"

// showInPlaceholders sees to it that Caddy's placeholders show the destination too.
// They read the request that Caddy has made, which is not ours where a handler before
// us has passed on a copy (`tracing` does).
func (t *transaction) showInPlaceholders() {
	repl := replacerOf(t.HTTP)
	if repl == nil {
		return
	}
	if hostport, ok := repl.GetString("http.request.hostport"); !ok || hostport == t.HTTP.Host {
		return
	}
	before, _ := repl.GetString(hostPlaceholder)
	host, port := t.HTTP.Host, ""
	if h, p, err := net.SplitHostPort(t.HTTP.Host); err == nil {
		host, port = h, p
	}
	repl.Set("http.request.hostport", t.HTTP.Host)
	repl.Set(hostPlaceholder, host)
	repl.Set("http.request.port", portValue(port))
	labels := strings.Split(host, ".")
	for i := range max(len(labels), strings.Count(before, ".")+1) {
		label := ""
		if i < len(labels) {
			label = labels[len(labels)-1-i]
		}
		repl.Set(hostPlaceholder+".labels."+strconv.Itoa(i), label)
	}
}

// portValue is a port as Caddy's placeholder has it: a number where there is one.
func portValue(port string) any {
	if n, err := strconv.Atoi(port); err == nil {
		return n
	}
	return port
}

// replacerOf is what replaces the placeholders of a request; nil where there is none.
func replacerOf(r *http.Request) *caddy.Replacer {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}

// checkHostPatterns refuses patterns of `host` matchers that no destination has, as it
// is shown to them: a route that denies must not be void for a trailing dot.
func checkHostPatterns(set []any) error {
	for _, matcher := range set {
		switch m := matcher.(type) {
		case *caddyhttp.MatchHost:
			for _, pattern := range *m {
				if err := checkHostPattern(pattern); err != nil {
					return err
				}
			}
		case *caddyhttp.MatchNot:
			for _, inner := range m.MatcherSets {
				if err := checkHostPatterns(inner); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func checkHostPattern(pattern string) error {
	written := plaintext.Printable(pattern)
	pattern = caddy.NewReplacer().ReplaceKnown(pattern, "")
	if words.HasPlaceholder(pattern) {
		return nil // known only when a request is there
	}
	if now := plaintext.Printable(pattern); now != written {
		written += "' (now '" + now + "')"
	} else {
		written += "'"
	}
	// An asterisk is a whole label; any name will do for it.
	const label = "x"
	for l := range strings.SplitSeq(pattern, ".") {
		if l != "*" && strings.Contains(l, "*") {
			return fmt.Errorf("'%s matches nothing: an asterisk stands for a whole label", written)
		}
	}
	shown := strings.ReplaceAll(pattern, "*", label)
	host, _, err := target.ParseHost(shown)
	if err != nil {
		return fmt.Errorf("'%s is no host: %w", written, target.ReasonOf(err))
	}
	if !strings.EqualFold(host, shown) {
		if !strings.Contains(pattern, "*") {
			return fmt.Errorf("'%s matches nothing; write '%s'", written, host)
		}
		return fmt.Errorf("'%s matches nothing: destinations are shown without a trailing dot and in canonical form", written)
	}
	return nil
}

// connectOnWire is the request target of a CONNECT request as it came, and the path in
// it, also where a handler before us has rewritten the request. On HTTP/1.1 that is
// all of what stood there, also what Go parses as something else.
func connectOnWire(r *http.Request) (requestTarget, path string) {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.Method == http.MethodConnect {
		return original.RequestURI, original.URL.Path
	}
	return r.RequestURI, r.URL.Path
}
