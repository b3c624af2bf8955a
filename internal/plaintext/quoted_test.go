package plaintext

import (
	"testing"

	"github.com/dunglas/httpsfv"
)

func TestQuotedString(t *testing.T) {
	for in, want := range map[string]string{
		"":                  `""`,
		"plain text":        `"plain text"`,
		`say "hi"`:          `"say \"hi\""`,
		`back\slash`:        `"back\\slash"`,
		"a\r\nX: y":         `"a??X: y"`,
		"tab\t, DEL \x7f":   `"tab?, DEL ?"`,
		"é":                 `"?"`,
		"\xff":              `"?"`,
		"~ !#[]":            `"~ !#[]"`,
		"\"\\\"":            `"\"\\\""`,
		"end with slash \\": `"end with slash \\"`,
	} {
		got := Quoted(in)
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if _, err := httpsfv.UnmarshalItem([]string{got}); err != nil {
			t.Errorf("%q: %s is no sf-string: %v", in, got, err)
		}
	}
}

func FuzzQuotedString(f *testing.F) {
	f.Add("a\"\\\r\n\x00é\xff")
	f.Fuzz(func(t *testing.T, s string) {
		item, err := httpsfv.UnmarshalItem([]string{Quoted(s)})
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if got, ok := item.Value.(string); !ok || len(got) > len(s) {
			t.Errorf("%q became %#v", s, item.Value)
		}
	})
}
