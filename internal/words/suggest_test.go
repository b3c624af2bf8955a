package words

import (
	"testing"
)

func TestSuggestion(t *testing.T) {
	known := map[string]int{"ports": 1, "realm": 1, "hosts": 1, "hide_ip": 1}
	for word, want := range map[string]string{
		"port": " (did you mean 'ports'?)", "posts": " (did you mean 'hosts'?)", "Realm": " (did you mean 'realm'?)",
		"": "", "x": "", "completely": "", "hideip": " (did you mean 'hide_ip'?)", "hideIP": "",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"abc", "", 3},
		{"", "abc", 3},
		{"abc", "abc", 0},
		{"abc", "abd", 1},
		{"abc", "ab", 1},
		{"ab", "ba", 2},
		{"kitten", "sitting", 3},
	} {
		if got := editDistance(tc.a, tc.b); got != tc.want {
			t.Errorf("%q, %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := editDistance(tc.b, tc.a); got != tc.want {
			t.Errorf("%q, %q: %d, want %d", tc.b, tc.a, got, tc.want)
		}
	}
}
