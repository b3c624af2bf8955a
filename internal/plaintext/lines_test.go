package plaintext

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Errors about a file name the whole path: a relative one may mean another file than who
// wrote it thinks.
func TestLines_WholePath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("list", []byte("one\n\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse := func(line string) error {
		if line == "two" {
			return errors.New("no")
		}
		return nil
	}
	for path, want := range map[string]string{
		"missing": filepath.Join(dir, "missing") + ": ",
		"list":    filepath.Join(dir, "list") + ":3: no",
		".":       dir + " is not a regular file",
	} {
		if err := Lines(path, 100, refuse); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestWithoutComment(t *testing.T) {
	for line, want := range map[string]string{
		"":                  "",
		"#":                 "",
		"# a":               "",
		"  \t# a":           "",
		"a":                 "a",
		"a #":               "a",
		"a\t#b # c":         "a",
		"a#b":               "a#b",
		"h:1:u:p#w # #ours": "h:1:u:p#w",
	} {
		if got := WithoutComment(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
