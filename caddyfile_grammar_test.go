package egress

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/caddy-egress/egress/internal/words"
	"github.com/caddy-egress/egress/upstreams"
)

// grammar is the Caddyfile grammar in the doc comment of UnmarshalCaddyfile:
// the words with what may follow them.
func grammar(t *testing.T) map[string][]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "caddyfile.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	doc := ""
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "UnmarshalCaddyfile" {
			doc = f.Doc.Text()
		}
	}
	words := make(map[string][]string)
	for line := range strings.Lines(doc) {
		line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), " {")
		if !strings.HasPrefix(line, "\t") || strings.HasPrefix(strings.TrimSpace(line), "<") {
			continue
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		if line == "" || line[0] == '#' || line[0] == '}' {
			continue
		}
		fields := strings.Fields(line)
		for word := range strings.SplitSeq(fields[0], "|") {
			words[word] = append(words[word], fields[1:]...)
		}
	}
	if len(words) < 80 {
		t.Fatalf("only %d words found in the grammar: %v", len(words), words)
	}
	return words
}

// Every word of the documented grammar, and every literal that may follow it,
// stands in a golden file.
func TestGrammarIsCovered(t *testing.T) {
	var input strings.Builder
	for _, g := range goldens(t) {
		input.WriteString(g.caddyfile + "\n")
	}
	literal := regexp.MustCompile(`^[a-z]+$`)
	for word, args := range grammar(t) {
		if !regexp.MustCompile(`(?m)^\t*` + word + `(\s|$)`).MatchString(input.String()) {
			t.Errorf("no golden file has the word %s", word)
		}
		for _, arg := range args {
			for choice := range strings.SplitSeq(arg, "|") {
				if literal.MatchString(choice) && !regexp.MustCompile(`(?m)^\t*`+word+`\s+`+choice+`(\s|$)`).MatchString(input.String()) {
					t.Errorf("no golden file has '%s %s'", word, choice)
				}
			}
		}
	}
}

// The grammar in the doc comment has the words that the parser knows, no more
// and no less.
func TestGrammarIsComplete(t *testing.T) {
	documented := grammar(t)
	delete(documented, "egress")
	known := parserWords(t)
	for word := range documented {
		if !known[word] {
			t.Errorf("%s is documented, but the parser does not know it", word)
		}
	}
	for word := range known {
		if _, ok := documented[word]; !ok {
			t.Errorf("%s is not documented", word)
		}
	}
}

// parserWords are the keys of the maps of words.
func parserWords(t *testing.T) map[string]bool {
	t.Helper()
	var names []string
	for _, pattern := range []string{"caddyfile*.go", "upstreams/words*.go", "internal/reach/*.go"} {
		some, err := filepath.Glob(pattern)
		if err != nil || len(some) < 2 {
			t.Fatal(some, err)
		}
		names = append(names, some...)
	}
	words := make(map[string]bool)
	add := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			word, _ := strconv.Unquote(lit.Value)
			words[word] = true
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				add(n.Key)
			case *ast.IndexExpr:
				add(n.Index)
			}
			return true
		})
	}
	return words
}

// Every JSON field is in a golden file, under its own parent.
func TestFieldsAreCovered(t *testing.T) {
	seen := make(map[string]bool)
	for _, g := range goldens(t) {
		var v any
		if err := json.Unmarshal([]byte(g.json), &v); err != nil {
			t.Fatalf("%s: %v", g.name, err)
		}
		eachHandler(v, func(h map[string]any) { markFields(reflect.TypeFor[Handler](), h, seen) })
	}
	for _, typ := range configTypes {
		for name := range jsonFields(typ) {
			if !seen[typ.Name()+"."+name] {
				t.Errorf("no golden file has %s.%s", typ.Name(), name)
			}
		}
	}
}

// configTypes are the types that make up the JSON of the handler.
var configTypes = []reflect.Type{
	reflect.TypeFor[Handler](), reflect.TypeFor[Auth](), reflect.TypeFor[BasicUser](), reflect.TypeFor[ACLRule](),
	reflect.TypeFor[DestinationCircuit](), reflect.TypeFor[Transport](), reflect.TypeFor[KeepAlive](), reflect.TypeFor[Tunnel](),
	reflect.TypeFor[Session](), reflect.TypeFor[Route](), reflect.TypeFor[upstreams.Group](), reflect.TypeFor[upstreams.Upstream](), reflect.TypeFor[upstreams.Credentials](),
	reflect.TypeFor[upstreams.LoadBalancing](), reflect.TypeFor[upstreams.HealthChecks](), reflect.TypeFor[upstreams.ActiveHealthChecks](), reflect.TypeFor[upstreams.Circuit](),
	reflect.TypeFor[Resolver](),
}

// jsonFields are the exported fields of a struct by their JSON name.
func jsonFields(typ reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField)
	for f := range typ.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			fields[name] = f
		}
	}
	return fields
}

// eachHandler calls f with every egress handler in a Caddy configuration.
func eachHandler(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			eachHandler(e, f)
		}
	case map[string]any:
		if v["handler"] == "egress" {
			f(v)
			return
		}
		for _, e := range v {
			eachHandler(e, f)
		}
	}
}

func markFields(typ reflect.Type, object map[string]any, seen map[string]bool) {
	for name, field := range jsonFields(typ) {
		value, ok := object[name]
		if !ok {
			continue
		}
		seen[typ.Name()+"."+name] = true
		inner := field.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
			inner = inner.Elem()
		}
		if !slices.Contains(configTypes, inner) {
			continue
		}
		for _, v := range elements(field.Type, value) {
			markFields(inner, v.(map[string]any), seen)
		}
	}
}

// elements are the objects in the value of a field: in a list, in a map, or the
// value itself.
func elements(typ reflect.Type, value any) []any {
	if list, ok := value.([]any); ok {
		return list
	}
	if typ.Kind() != reflect.Map {
		return []any{value}
	}
	var values []any
	for _, v := range value.(map[string]any) {
		values = append(values, v)
	}
	return values
}

// What elsewhere tells people to write is in the grammar.
func TestElsewhereSuggestsKnownWords(t *testing.T) {
	known := grammar(t)
	for word, hint := range words.Elsewhere {
		if strings.HasPrefix(hint, "nothing") {
			continue
		}
		for _, suggested := range regexp.MustCompile(`[a-z_]+`).FindAllString(hint, -1) {
			if _, ok := known[suggested]; !ok && suggested != "or" {
				t.Errorf("%s: %q has the unknown word %s", word, hint, suggested)
			}
		}
	}
}
