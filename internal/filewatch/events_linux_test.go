package filewatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file that is written in pieces is told of when it was closed, whether it was there
// before or not.
func TestWatch_InPieces(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"in place": func(string) error { return nil },
		"anew":     os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "list")
			write(t, path, "old and longer than its beginning")
			_, contents := watch(t, path)
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			want := ""
			for _, piece := range []string{"", "a piece", ", another"} {
				if _, err := f.WriteString(piece); err != nil {
					t.Fatal(err)
				}
				want += piece
				select {
				case got := <-contents:
					t.Fatalf("notice of %q while it is written", got)
				case <-time.After(3 * settle):
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := <-contents; got != want {
				t.Errorf("notice of %q, want %q", got, want)
			}
		})
	}
}
