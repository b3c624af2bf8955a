package shared

import "testing"

// Values that differ have another digest, text or not.
func TestDigest(t *testing.T) {
	type login struct{ User, Password string }
	of := make(map[string]int)
	all := [][]any{
		{"a", "b"}, {"ab"}, {"a", "c"}, {"\ufffd"}, {`\ufffd`}, {"\xfc"}, {"\xe4"}, {"\xfc", "\xe4"}, {"\xe4", "\xfc"},
		{"\ufffd", "\xfc"}, {"\xfc", "\ufffd"}, {&login{"u", "\xfc"}}, {&login{"u", "\xe4"}}, {&login{"\xfc", "u"}},
		{map[string][]string{"X": {"\xfc"}}}, {map[string][]string{"X": {"\xe4"}}},
		{map[string]string{"\xfc": "a", "\xe4": "b"}}, {map[string]string{"\xfc": "b", "\xe4": "a"}}, {(*login)(nil), nil},
	}
	for i, values := range all {
		d := Digest(values...)
		if other, same := of[d]; same {
			t.Errorf("%q and %q have one digest", all[other], values)
		}
		if of[d] = i; Digest(values...) != d {
			t.Errorf("%q: another one the next time", values)
		}
	}
	// They are kept in storage: they may not change from one release to the next.
	if d := Digest("default", "http://one.example:3128", "ü", 1)[:12]; d != "db4dbfa4e8a1" {
		t.Error(d)
	}
}
