package egress

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are the texts for people of this repository.
func documents(t *testing.T) []string {
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "bench/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	if len(all) < 5 {
		t.Fatalf("only %d documents", len(all))
	}
	return all
}

var markdownLink = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)

// TestDocuments: what merges leave behind is found, and links that lead nowhere.
func TestDocuments(t *testing.T) {
	for _, file := range documents(t) {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			titles, inCode, last := make(map[string]bool), false, ""
			for n, line := range strings.Split(string(text), "\n") {
				if strings.HasPrefix(strings.TrimSpace(line), "```") {
					inCode = !inCode
				}
				if inCode {
					continue
				}
				if title, ok := heading(line); ok && titles[title] {
					t.Errorf("line %d: the heading %q stands twice", n+1, title)
				} else if ok {
					titles[title] = true
				}
				if strings.HasPrefix(line, "|") && line == last {
					t.Errorf("line %d: the row stands twice", n+1)
				}
				if strings.HasPrefix(line, "<<<<<<<") || strings.HasPrefix(line, ">>>>>>>") {
					t.Errorf("line %d: a conflict", n+1)
				}
				last = line
				for _, link := range markdownLink.FindAllStringSubmatch(line, -1) {
					to := link[1]
					if strings.Contains(to, "://") {
						continue
					}
					if _, err := os.Stat(filepath.Join(filepath.Dir(file), to)); err != nil {
						t.Errorf("line %d: %s leads nowhere", n+1, to)
					}
				}
			}
			if inCode {
				t.Error("a block of code has no end")
			}
		})
	}
}

// heading returns the text of a heading of the first two levels: below them, the
// same may be said of several things.
func heading(line string) (string, bool) {
	for _, mark := range []string{"# ", "## "} {
		if title, ok := strings.CutPrefix(line, mark); ok {
			return strings.TrimSpace(title), true
		}
	}
	return "", false
}
