package admin

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// tables are those of docs/admin-api.md: the endpoints, and the fields of what they tell.
func tables() string {
	var b strings.Builder
	b.WriteString("| call | what | query parameters |\n| --- | --- | --- |\n")
	for _, e := range endpoints {
		for _, m := range e.methods {
			var params []string
			for _, p := range m.params {
				params = append(params, "`"+p.name+"`")
			}
			fmt.Fprintf(&b, "| `%s %s%s` | %s | %s |\n", m.name, root, e.path, m.does, strings.Join(params, ", "))
		}
	}
	b.WriteString("\n| query parameter | what | it is |\n| --- | --- | --- |\n")
	told := make(map[string]bool)
	for _, e := range endpoints {
		for _, m := range e.methods {
			for _, p := range m.params {
				if row := fmt.Sprintf("| `%s` | %s | %s |\n", p.name, p.does, p.allowed); !told[row] {
					told[row] = true
					b.WriteString(row)
				}
			}
		}
	}
	for _, v := range []any{Upstream{}, Group{}, Pool{}, Destination{}, DNS{}, DNSName{}, Rule{}, Reload{}, User{}, Tunnel{}} {
		t := reflect.TypeOf(v)
		fmt.Fprintf(&b, "\n### %s\n\n| field | what |\n| --- | --- |\n", t.Name())
		writeFields(&b, t, "")
	}
	return b.String()
}

func writeFields(b *strings.Builder, t reflect.Type, before string) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		of := f.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		own := of.Kind() == reflect.Struct && of.PkgPath() == t.PkgPath()
		switch {
		case own && f.Anonymous:
			writeFields(b, of, before)
			continue
		case own:
			fmt.Fprintf(b, "| `%s%s` | %s |\n", before, name, f.Tag.Get("doc"))
			writeFields(b, of, before+name+".")
			continue
		}
		fmt.Fprintf(b, "| `%s%s` | %s |\n", before, name, f.Tag.Get("doc"))
	}
}

const (
	tablesBegin = "<!-- tables: made by the test of admin -->\n"
	tablesEnd   = "<!-- end of tables -->\n"
)

// The document has the tables of what is in the code. EGRESS_WRITE_DOCS=1 writes them.
func TestDocument(t *testing.T) {
	const path = "../docs/admin-api.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), tablesBegin)
	table, tail, ends := strings.Cut(rest, tablesEnd)
	if !begins || !ends {
		t.Fatalf("%s has no marks around the tables", path)
	}
	if table == tables() {
		return
	}
	if os.Getenv("EGRESS_WRITE_DOCS") == "" {
		t.Fatalf("%s is not what the code says; run EGRESS_WRITE_DOCS=1 go test ./admin", path)
	}
	if err := os.WriteFile(path, []byte(head+tablesBegin+tables()+tablesEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every field says what it is, and what may be absent is absent, and not null.
func TestFieldsAreDocumented(t *testing.T) {
	description()
	seen := make(map[reflect.Type]bool)
	var look func(reflect.Type)
	look = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			look(of.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[of] || of.PkgPath() != reflect.TypeFor[Upstream]().PkgPath() {
			return
		}
		seen[of] = true
		for f := range of.Fields() {
			if tag := f.Tag.Get("json"); f.IsExported() && !f.Anonymous {
				if f.Tag.Get("doc") == "" || tag == "" {
					t.Errorf("%s.%s has no words", of, f.Name)
				}
				if f.Type.Kind() == reflect.Pointer && !strings.Contains(tag, "omitempty") {
					t.Errorf("%s.%s may be null", of, f.Name)
				}
			}
			look(f.Type)
		}
	}
	for _, e := range endpoints {
		for _, m := range e.methods {
			look(reflect.TypeOf(m.answer))
		}
	}
	if len(seen) < 15 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}
