package metrics

import (
	"strings"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
)

// maxRules is how many access rules have series of their own: the first. What is beyond is
// summed up as otherRules. Those that files bring are not told one by one.
const (
	maxRules   = 500
	otherRules = "_other"
)

// collectRules tells what access rules have decided. A rule that stands in several places
// is told once, as it is counted: by its text.
func collectRules(out *scrape, place string, r acl.Report) {
	type key struct {
		rule  string
		allow bool
	}
	told := make(map[key]bool)
	var rest [2]map[string]summand // denied, allowed; by text
	files := make(map[string]bool)
	for i := range r.Rules {
		rule := &r.Rules[i]
		if f := rule.File; f != nil && !files[f.Path] {
			files[f.Path] = true
			send(out, rulesEntries, float64(f.Entries), place, f.Path)
			send(out, rulesLoaded, float64(r.Loaded.UnixMilli())/1000, place, f.Path)
		}
		k := key{textOf(rule), rule.Allow}
		switch {
		case told[k]:
		case len(told) < maxRules:
			told[k] = true
			send(out, decisions, float64(rule.Hits), place, k.rule, actionOf(k.allow))
		default:
			i := int(oneIf(k.allow))
			if rest[i] == nil {
				rest[i] = make(map[string]summand)
			}
			rest[i][k.rule] = summand{counts: tally{rule.Hits}}
		}
	}
	for i, parts := range rest {
		action := actionOf(i == 1)
		if of := ofRules(action); len(parts) > 0 || others.told(place, of) {
			send(out, decisions, float64(others.take(out.now, place, of, parts)[0]), place, otherRules, action)
		}
	}
	for i := range r.Defaults {
		d := &r.Defaults[i]
		if k := (key{d.Text, d.Allow}); !told[k] {
			told[k] = true
			send(out, decisions, float64(d.Hits), place, d.Text, actionOf(d.Allow))
		}
	}
	if len(files) > 0 {
		send(out, rulesGood, oneIf(r.Failed.IsZero()), place)
	}
}

// textOf is the text of a rule without its position, which others change.
func textOf(r *acl.RuleReport) string {
	if _, text, ok := strings.Cut(r.Text, "]: "); ok {
		return text
	}
	return r.Text
}

func actionOf(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// collectReload tells what the last reload has kept, and what it has not.
func collectReload(out *scrape, place string, r *core.Reload) {
	for kind, n := range map[string]int{"connection": r.Connections, "upstream": r.Upstreams, "tunnel": r.Tunnels, "failing_destination": r.Destinations} {
		send(out, reloadKept, float64(n), place, kind)
	}
	for kind, n := range map[string]int{"connection": r.LeftConnections, "upstream": r.LeftUpstreams} {
		send(out, reloadDrained, float64(n), place, kind)
	}
}
