package upstream

import "testing"

func TestWithoutCredentials(t *testing.T) {
	for text, want := range map[string]struct {
		bare, user string
		had        bool
	}{
		"http://u:p@one.example:3128/":    {"http://one.example:3128", "u", true},
		"http://u:p@x/y@one.example:3128": {"http://one.example:3128", "u", true},
		"http://one.example:3128#2":       {"http://one.example:3128#2", "", false},
		"u:p@one.example:3128":            {"one.example:3128", "u", true},
		"one.example:3128":                {"one.example:3128", "", false},
		"http+unix:///run/p@1.sock":       {"http+unix:///run/p@1.sock", "", false},
		"socks5+unix://u:p@/run/p@1.sock": {"socks5+unix:///run/p@1.sock", "u", true},
		"unix//run/p@1.sock":              {"unix//run/p@1.sock", "", false},
		"http://a%40b%3Ac:p@one.example":  {"http://one.example", "a@b:c", true},
		"http://:p@one.example":           {"http://one.example", "", true},
		"http://u@one.example":            {"http://one.example", "u", true},
		"0123456789ab":                    {"0123456789ab", "", false},
	} {
		if bare, user, had := CutCredentials(text); bare != want.bare || user != want.user || had != want.had {
			t.Errorf("%s: %s, %s, %v", text, bare, user, had)
		}
	}
}
