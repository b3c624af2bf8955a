package accesslog

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-egress/egress/internal/target"
)

// This file contains which loggers take a line, by the rules of the server's configuration.

// Settings are those of the access log of the server of a request, nil where it has none.
func Settings(r *http.Request) *caddyhttp.ServerLogConfig {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return nil
	}
	return server.Logs
}

// Takes reports whether requests for a host are logged, which is named by an authority.
func Takes(logs *caddyhttp.ServerLogConfig, authority string) bool {
	host := loggedHost(authority)
	matches := func(pattern string) bool { return certmagic.MatchWildcard(host, pattern) }
	for name := range logs.LoggerNames {
		if matches(name) {
			return true
		}
	}
	return !slices.ContainsFunc(logs.SkipHosts, matches) && !logs.SkipUnmappedHosts
}

// loggerNames are the names of the loggers that take the line, as the
// server's configuration has them: those that `log_name` has set, or those of
// the host, or of a wildcard for it, or the default one.
func loggerNames(logs *caddyhttp.ServerLogConfig, r *http.Request) []string {
	if names, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		var out []string
		for _, name := range names {
			if s, ok := name.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	host := strings.ToLower(loggedHost(r.Host))
	if names, ok := logs.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		labels[i] = "*"
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{logs.DefaultLoggerName}
}

// SetLoggers has Caddy's own line go to the loggers of the host that the request has by now,
// also where a handler before us, such as that of tracing, has copied the request: Caddy
// does not see its Host then.
func SetLoggers(logs *caddyhttp.ServerLogConfig, r *http.Request) {
	if len(logs.LoggerNames) == 0 {
		return // there is but one
	}
	var names []any
	for _, name := range loggerNames(logs, r) {
		names = append(names, name)
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey, names)
}

// loggedHost is the host of an authority, for the patterns of hosts, and none where it is
// too long for a destination: a pattern is compared with the host once for each label.
func loggedHost(authority string) string {
	if len(authority) > target.MaxAuthority {
		return ""
	}
	return target.Hostname(authority)
}
