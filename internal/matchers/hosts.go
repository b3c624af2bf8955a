package matchers

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/idna"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/words"
)

// CheckHosts refuses patterns of `host` matchers that no destination has, as it
// is shown to them: a route that denies must not be void for a trailing dot.
func CheckHosts(set []any) error {
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
				if err := CheckHosts(inner); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// CheckHostsRaw is CheckHosts for matchers that are not loaded yet. Patterns with
// placeholders, which may have another value then, are left to CheckHosts.
func CheckHostsRaw(set caddy.ModuleMap) error {
	var patterns []string
	var not []caddy.ModuleMap
	_ = json.Unmarshal(set["host"], &patterns) // what is no list of texts is refused when it is loaded
	_ = json.Unmarshal(set["not"], &not)
	for _, pattern := range patterns {
		if words.HasPlaceholder(pattern) {
			continue
		}
		if ascii, err := idna.ToASCII(pattern); err == nil {
			pattern = ascii // as the matcher does when it is provisioned
		}
		if err := checkHostPattern(pattern); err != nil {
			return err
		}
	}
	for _, inner := range not {
		if err := CheckHostsRaw(inner); err != nil {
			return err
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
