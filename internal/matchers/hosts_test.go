package matchers

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A pattern that no destination has is an error, which says what would match.
func TestCheckHostPattern(t *testing.T) {
	t.Setenv("EGRESS_TEST_HOST", "a.example")
	t.Setenv("EGRESS_TEST_DOT", "a.example.")
	for pattern, problem := range map[string]string{
		"a.example": "", "A.Example": "", "*.example": "", "*": "", "a.*.example": "", "127.0.0.1": "", "::1": "", "xn--bcher-kva.example": "", "{env.EGRESS_TEST_HOST}": "", "*.{env.EGRESS_TEST_HOST}": "", "{http.vars.x}": "", "192.0.2.*": "",
		"a.example.":              "'a.example.' matches nothing; write 'a.example'",
		"127.1":                   "'127.1' matches nothing; write '127.0.0.1'",
		"[::1]":                   "'[::1]' matches nothing; write '::1'",
		"*.example.":              "'*.example.' matches nothing: destinations are shown without a trailing dot and in canonical form",
		"{env.EGRESS_TEST_DOT}":   "'{env.EGRESS_TEST_DOT}' (now 'a.example.') matches nothing; write 'a.example'",
		"ads*.example":            "'ads*.example' matches nothing: an asterisk stands for a whole label",
		"**.example":              "'**.example' matches nothing: an asterisk stands for a whole label",
		"{env.EGRESS_TEST_UNSET}": "'{env.EGRESS_TEST_UNSET}' (now '') is no host: the host is empty",
		"a.example:1":             "'a.example:1' is no host: it has a colon but is not an IPv6 address (a port has no place here)",
	} {
		err := checkHostPattern(pattern)
		if problem == "" && err != nil || problem != "" && (err == nil || err.Error() != problem) {
			t.Errorf("%s: %v, want %q", pattern, err, problem)
		}
	}
	set := []any{&caddyhttp.MatchNot{MatcherSets: []caddyhttp.MatcherSet{{}}}, &caddyhttp.MatchHost{"a.", "b"}}
	if err := CheckHosts(set); err == nil || !strings.Contains(err.Error(), "'a.'") {
		t.Error(err)
	}
}
