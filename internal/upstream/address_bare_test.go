package upstream

import "testing"

func TestWithoutCredentials(t *testing.T) {
	for text, want := range map[string]struct {
		bare string
		had  bool
	}{
		"http://u:p@one.example:3128/":    {"http://one.example:3128", true},
		"http://u:p@x/y@one.example:3128": {"http://one.example:3128", true},
		"http://one.example:3128#2":       {"http://one.example:3128#2", false},
		"u:p@one.example:3128":            {"one.example:3128", true},
		"one.example:3128":                {"one.example:3128", false},
		"http+unix:///run/p@1.sock":       {"http+unix:///run/p@1.sock", false},
		"socks5+unix://u:p@/run/p@1.sock": {"socks5+unix:///run/p@1.sock", true},
		"unix//run/p@1.sock":              {"unix//run/p@1.sock", false},
		"0123456789ab":                    {"0123456789ab", false},
	} {
		if bare, had := WithoutCredentials(text); bare != want.bare || had != want.had {
			t.Errorf("%s: %s, %v", text, bare, had)
		}
	}
}
