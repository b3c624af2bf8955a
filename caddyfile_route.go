package egress

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/matchers"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the Caddyfile for routes.

// matcherToken reads the next argument as a matcher token (`@name`, `*`, `/path`):
// httpcaddyfile.Helper.MatcherToken.
type matcherToken func() (caddy.ModuleMap, bool, error)

// unmarshalRoute reads a route, in its short form `route [<matcher>] <target>
// [fallback <target>]` or as a block.
func (h *Handler) unmarshalRoute(d *caddyfile.Dispenser, matcher matcherToken) error {
	at := *d
	r := &Route{at: &at}
	h.Routes = append(h.Routes, r)
	if matcher != nil && d.CountRemainingArgs() > 0 {
		set, ok, err := matcher()
		if err != nil {
			return d.Errf("route: %v", err)
		}
		if err := matchers.CheckHostsRaw(set); err != nil {
			return d.Errf("route: host: %v", err)
		}
		if set != nil {
			r.MatcherSetsRaw = append(r.MatcherSetsRaw, set)
		}
		if !ok {
			d.Prev()
		}
	}
	if args := d.RemainingArgs(); len(args) > 0 {
		if err := r.targets(d, args); err != nil {
			return err
		}
	}
	return r.unmarshalBlock(d)
}

// targets reads <target> [fallback <target>].
func (r *Route) targets(d *caddyfile.Dispenser, args []string) error {
	switch {
	case r.To != "":
		return d.Err("the target of the route stands twice")
	case strings.HasPrefix(args[0], "@"):
		return d.Errf("route: the matcher %s is not known here", plaintext.Escaped(args[0]))
	case len(args) == 3 && args[1] == "fallback":
		r.Fallback = args[2]
	case len(args) != 1:
		return d.Errf("a route is <target> [fallback <target>], not '%s'", plaintext.Escaped(strings.Join(args, " ")))
	}
	r.To = args[0]
	return nil
}

func (r *Route) unmarshalBlock(d *caddyfile.Dispenser) error {
	parse := r.words(d)
	unused := r.noteSource(d, parse)
	err := block(d, "route", parse, "match", "header_up", "header_down")
	switch {
	case err != nil:
		return err
	case r.To == "":
		return d.Err("the route has no target: direct, deny or the name of a group")
	case !r.leavesDirectly():
		return *unused
	}
	return nil
}

func (r *Route) words(d *caddyfile.Dispenser) map[string]func() error {
	parse := map[string]func() error{
		"match": func() error {
			ahead := *d
			set, err := caddyhttp.ParseCaddyfileNestedMatcherSet(d)
			if err != nil {
				return cmp.Or(unknownMatcher(&ahead), err)
			}
			if err := matchers.CheckHostsRaw(set); err != nil {
				return d.Errf("match: host: %v", err)
			}
			r.MatcherSetsRaw = append(r.MatcherSetsRaw, set)
			return nil
		},
		"to": func() error {
			args := d.RemainingArgs()
			if len(args) == 0 {
				return d.Err("to wants a target: direct, deny or the name of a group")
			}
			return r.targets(d, args)
		},
		"header_up":   func() error { return headerOp(d, r.requestOps()) },
		"header_down": func() error { return headerOp(d, r.responseOps()) },
	}
	reach.SourceWords(d, grammarBlocks, reach.Source{
		Addresses: &r.LocalAddresses, Pick: &r.LocalAddressPick, Device: &r.Interface, Preference: &r.PreferIP,
	}, parse)
	return parse
}

// unknownMatcher is the error of the first matcher of a block that there is not.
func unknownMatcher(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := words.Module(d, "http.matchers", "matcher"); err != nil {
			return err
		}
		d.NextSegment()
	}
	return nil
}

// checkTargets finds the routes that lead to no group, when all groups are known, and
// those whose fallback can never be needed.
func (h *Handler) checkTargets() error {
	for _, r := range h.Routes {
		if err := r.checkFallback(); err != nil && !words.HasPlaceholder(r.To) && !words.HasPlaceholder(r.Fallback) {
			return r.at.Errf("route: fallback: %v", err)
		}
		for _, name := range [...]string{r.To, r.Fallback} {
			if err := h.checkTarget(name); name != "" && !words.HasPlaceholder(name) && err != nil {
				return r.at.Errf("route: %v", err)
			}
		}
	}
	return nil
}

// noteSource has the words about direct connections remember where the first of them
// stands: the target, which says whether they have a meaning, may come later. It
// returns the error for the case that they have none.
func (r *Route) noteSource(d *caddyfile.Dispenser, parse map[string]func() error) *error {
	unused := new(error)
	for _, word := range [...]string{"local_address", "interface", "prefer_ip"} {
		read := parse[word]
		parse[word] = func() error {
			if *unused == nil {
				*unused = d.Errf("%s: %v", word, errSourceUnused)
			}
			return read()
		}
	}
	return unused
}

// headerOp reads [+|-]<field> [<value|regexp> [<replacement>]], as reverse_proxy
// does.
func headerOp(d *caddyfile.Dispenser, ops *headers.HeaderOps) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 3 {
		return d.Errf("%s wants a field, and a value or a regular expression with its replacement; got %d arguments", word, len(args))
	}
	if name := strings.TrimLeft(args[0], "+-?>"); !exchange.Settable(name) {
		return d.Errf("%s: the field %s cannot be changed", word, plaintext.Escaped(name))
	}
	value, replacement := "", (*string)(nil)
	if len(args) > 1 {
		value = args[1]
	}
	if len(args) > 2 {
		replacement = &args[2]
	}
	if replacement != nil && !strings.Contains(value, "{") { // with placeholders it is compiled for each request
		if _, err := regexp.Compile(value); err != nil {
			return d.Errf("%s: '%s': %v", word, plaintext.Escaped(value), err)
		}
	}
	if err := headers.CaddyfileHeaderOp(ops, args[0], value, replacement); err != nil {
		return d.Errf("%s: %v", word, err)
	}
	return nil
}

func (r *Route) headerHandler() *headers.Handler {
	if r.Headers == nil {
		r.Headers = new(headers.Handler)
	}
	return r.Headers
}

func (r *Route) requestOps() *headers.HeaderOps {
	h := r.headerHandler()
	if h.Request == nil {
		h.Request = new(headers.HeaderOps)
	}
	return h.Request
}

func (r *Route) responseOps() *headers.HeaderOps {
	h := r.headerHandler()
	if h.Response == nil {
		h.Response = &headers.RespHeaderOps{HeaderOps: new(headers.HeaderOps)}
	}
	return h.Response.HeaderOps
}
