package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/words"
)

// What has no value is an error; what is no placeholder stays.
func TestPlaceholders_Text(t *testing.T) {
	t.Setenv("EGRESS_TEST_VALUE", "a value")
	repl := caddy.NewReplacer()
	file := filepath.Join(t.TempDir(), "a \"file\"")
	if err := os.WriteFile(file, []byte("of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	const noValue = ` has no value when the configuration is loaded: only global placeholders, such as {env.NAME}, are replaced here (\{ is a brace)`
	for _, tc := range []struct{ text, want, problem string }{
		{"", "", ""},
		{"plain", "plain", ""},
		{"{env.EGRESS_TEST_VALUE}", "a value", ""},
		{"<{env.EGRESS_TEST_VALUE}>", "<a value>", ""},
		{`\{env.EGRESS_TEST_VALUE\}`, "{env.EGRESS_TEST_VALUE}", ""},
		{`{"json": {"a": 1}}`, `{"json": {"a": 1}}`, ""},
		{"{", "{", ""},
		{"{}", "{}", ""},
		{"{env.EGRESS_TEST_UNSET}", "", "{env.EGRESS_TEST_UNSET} is empty: is it set?"},
		{"{http.request.remote.host}", "", "{http.request.remote.host}" + noValue},
		{"{env.EGRESS_TEST_VALUE}{env.EGRESS_TEST_VALUE}", "a valuea value", ""},
		{"{a b}{env.EGRESS_TEST_VALUE}", "{a b}a value", ""},
		{"{ {env.EGRESS_TEST_VALUE}}", "{ a value}", ""},
		{`\{x{env.EGRESS_TEST_VALUE}`, "{xa value", ""},
		{`{\}x}`, `{}x}`, ""},
		{"{file." + file + "}", "of a file", ""},
		{"{file." + file + " not}", "", "{file." + file + " not} is empty: is it set?"},
		{"{env.EGRESS_TEST_VALUE}{env.EGRESS_TEST_UNSET}", "", "{env.EGRESS_TEST_UNSET} is empty: is it set?"},
		{"{env.EGRESS_TEST_UNSET \"x\"}", "", "{env.EGRESS_TEST_UNSET \"x\"} is empty: is it set?"},
		{"{env.EGRESS_TEST_VALUE}{http.request.host}", "", "{http.request.host}" + noValue},
		{"{env.EGRESS_TEST_VALUE}{typo}", "", "{typo}" + noValue},
		{"{{typo}}", "", "{typo}" + noValue},
		{"{http.request.header.X Y}", "", "{http.request.header.X Y}" + noValue},
		{strings.Repeat("{", 200), "", "too many unclosed placeholders"},
		{"{typo}", "", "{typo}" + noValue},
	} {
		got, err := replaceText(tc.text, "", repl)
		switch {
		case tc.problem != "" && (err == nil || err.Error() != tc.problem):
			t.Errorf("%q: %v, want %q", tc.text, err, tc.problem)
		case tc.problem == "" && (err != nil || got != tc.want):
			t.Errorf("%q: %q, %v, want %q", tc.text, got, err, tc.want)
		}
	}
	for text, want := range map[string]bool{"{a}": true, "x{ }{file./a b}": true, `\{a}`: false, "{a b}": false, "{a": false} {
		if words.HasPlaceholder(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
	if _, err := replaceText("{env.A}{env.B}", "refused", repl); err == nil || err.Error() != "{env.A}: placeholders are not replaced here" {
		t.Error(err)
	}
}
