package top

import (
	"slices"
	"testing"
)

// What a terminal sends, in whatever parts, is keys.
func TestKeys(t *testing.T) {
	for in, want := range map[string][]key{
		"q":                    {'q'},
		"ab":                   {'a', 'b'},
		"ü界":                   {'ü', '界'},
		"\x1b":                 {keyEscape},
		"\x1bq":                {keyEscape, 'q'},
		"\x1b[A\x1bOB":         {keyUp, keyDown},
		"\x1b[5~\x1b[6~\x1b[Z": {keyPageUp, keyPageDown, keyBackTab},
		"\x1b[1;5C":            {keyUnknown},
		"\x1b[200~x":           {keyUnknown, 'x'},
		"\r\n\t\x7f\b":         {keyEnter, keyEnter, keyTab, keyBackspace, keyBackspace},
		"\x03\x15\x0c\x01":     {keyInterrupt, keyErase, keyRedraw, keyUnknown},
		"\xff\xc3(":            {keyUnknown, keyUnknown, '('},
	} {
		if got, rest := keysOf(in); !slices.Equal(got, want) || rest != "" {
			t.Errorf("%q: %v, rest %q; want %v", in, got, rest, want)
		}
	}
	for _, in := range []string{"\x1b[", "\x1b[1;", "\x1bO", "\xc3", "\xe7\x95"} {
		if got, rest := keysOf(in); len(got) != 0 || rest != in {
			t.Errorf("%q is no key yet: %v, rest %q", in, got, rest)
		}
	}
}

func keysOf(in string) (keys []key, rest string) {
	for {
		k, rest, ok := nextKey(in)
		if !ok {
			return keys, rest
		}
		keys, in = append(keys, k), rest
	}
}

// Whatever is read, each key takes something of it, and no more is kept than a sequence.
func FuzzKeys(f *testing.F) {
	f.Add("\x1b[A")
	f.Add("\x1b[\x1b[\x1b[999999999999999999")
	f.Add("\xff\x00ü")
	f.Fuzz(func(t *testing.T, in string) {
		for in != "" {
			_, rest, ok := nextKey(in)
			if !ok {
				if len(in) >= maxSequence {
					t.Fatalf("%q is kept", in)
				}
				return
			}
			if len(rest) >= len(in) {
				t.Fatalf("%q took nothing", in)
			}
			in = rest
		}
	})
}
