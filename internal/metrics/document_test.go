package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// document is the table of docs/metrics.md.
func document() string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | what |\n| --- | --- | --- | --- |\n")
	for _, e := range Catalogue() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Name, e.Type, "`"+strings.Join(e.Labels, "`, `")+"`", e.Help)
	}
	return b.String()
}

const (
	tableBegins = "<!-- metrics: made by the test of internal/metrics -->\n"
	tableEnds   = "<!-- end of metrics -->\n"
)

// The document has the table of what is in the code. EGRESS_WRITE_DOCS=1 writes it.
func TestDocument(t *testing.T) {
	const path = "../../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), tableBegins)
	table, tail, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("%s has no marks around the table", path)
	}
	if table == document() {
		return
	}
	if os.Getenv("EGRESS_WRITE_DOCS") == "" {
		t.Fatalf("%s is not what the code says; run EGRESS_WRITE_DOCS=1 go test ./internal/metrics", path)
	}
	if err := os.WriteFile(path, []byte(head+tableBegins+document()+tableEnds+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
