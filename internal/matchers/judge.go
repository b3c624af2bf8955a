package matchers

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains how matchers judge the tunnels of the configuration before. Of the
// request that asked for a tunnel little is kept, so a matcher may not be known to match;
// a tunnel ends only where it would be refused whatever such matchers say.

// Remembered is a request with what is known of it, for the matchers that isKnown names.
func Remembered(a *tunnels.Asked) *http.Request {
	dest := a.Target.String()
	repl := caddy.NewReplacer()
	if a.Login != nil {
		repl.Set(caddyserver.UserPlaceholder, a.Login.User())
	}
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, repl)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: a.Client.String()})
	r := &http.Request{
		Method: cmp.Or(a.Method, http.MethodConnect), Host: dest, RequestURI: dest,
		ProtoMajor: int(a.Major), ProtoMinor: int(a.Minor),
		RemoteAddr: netip.AddrPortFrom(a.Peer, 0).String(),
	}
	if a.TLS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	return r.WithContext(ctx)
}

// Match is what is known of a matcher and a request.
type Match int

// What may be known.
const (
	No Match = iota
	Maybe
	Yes
)

// Judge is whether one of the sets matches, or there is none.
func Judge(sets caddyhttp.MatcherSets, r *http.Request) Match {
	if len(sets) == 0 {
		return Yes
	}
	best := No
	for _, set := range sets {
		best = max(best, matchSet(set, r))
	}
	return best
}

// matchSet is whether all matchers of a set match.
func matchSet(set caddyhttp.MatcherSet, r *http.Request) Match {
	worst := Yes
	for _, m := range set {
		worst = min(worst, matchOne(m, r))
	}
	return worst
}

func matchOne(m any, r *http.Request) Match {
	if not, ok := m.(*caddyhttp.MatchNot); ok {
		if len(not.MatcherSets) == 0 {
			return Yes
		}
		return Yes - Judge(not.MatcherSets, r)
	}
	known, ok := m.(caddyhttp.RequestMatcherWithError)
	if !ok || !isKnown(m, r) {
		return Maybe
	}
	switch ok, err := known.MatchWithError(r); {
	case err != nil:
		return Maybe
	case ok:
		return Yes
	}
	return No
}

// isKnown reports whether a matcher looks at nothing but what is remembered.
func isKnown(m any, r *http.Request) bool {
	switch m := m.(type) {
	case *caddyhttp.MatchClientIP:
		return caddyserver.ClientIP(r) != invalidAddr
	case *caddyhttp.MatchRemoteIP, *caddyhttp.MatchMethod:
		return true
	case *caddyhttp.MatchProtocol:
		return *m != "grpc"
	case *caddyhttp.MatchHost:
		for _, pattern := range *m {
			if words.HasPlaceholder(caddy.NewReplacer().ReplaceKnown(pattern, "")) {
				return false
			}
		}
		return true
	case *caddyhttp.VarsMatcher:
		for key, values := range *m {
			if key != "{"+caddyserver.UserPlaceholder+"}" || caddyserver.User(r) == "" || strings.Contains(strings.Join(values, ""), "{") {
				return false
			}
		}
		return true
	}
	return false
}

// invalidAddr is the text of an address that nobody knows.
var invalidAddr = netip.Addr{}.String()
