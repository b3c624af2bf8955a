package egress

import (
	"net"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the one view of the destination: whoever looks at the request
// from here on (matchers, selection policies, header settings, loggers by host) sees
// what will be dialed, in its canonical form, and not the spelling of the client.

// maxHostField is the longest Host field: a name of 253 bytes, a colon and a port.
const maxHostField = 253 + 1 + 5

// showDestination makes the Host of the request what the destination is sent as Host:
// without a port that is the scheme's own, except for CONNECT.
func (in *incoming) showDestination() {
	var buf [maxHostField]byte
	shown := buf[:0]
	if in.Use == upstream.Tunnel {
		shown = in.AppendAuthority(shown)
	} else {
		shown = in.AppendHost(shown)
	}
	if string(shown) == in.HTTP.Host {
		return
	}
	in.rawHost = in.HTTP.Host
	in.HTTP.Host = string(shown)
	if in.HTTP.URL.Host != "" {
		in.HTTP.URL.Host = in.HTTP.Host
	}
	in.showInPlaceholders()
	in.logByDestination()
}

// hostPlaceholder is the host in the Host of a request; its labels are below it.
const hostPlaceholder = "http.request.host"

// showInPlaceholders sees to it that Caddy's placeholders show the destination too.
// They read the request that Caddy has made, which is not ours where a handler before
// us has passed on a copy (`tracing` does).
func (in *incoming) showInPlaceholders() {
	repl := caddyserver.Replacer(in.HTTP)
	if repl == nil {
		return
	}
	if hostport, ok := repl.GetString("http.request.hostport"); !ok || hostport == in.HTTP.Host {
		return
	}
	before, _ := repl.GetString(hostPlaceholder)
	host, port := in.HTTP.Host, ""
	if h, p, err := net.SplitHostPort(in.HTTP.Host); err == nil {
		host, port = h, p
	}
	repl.Set("http.request.hostport", in.HTTP.Host)
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
