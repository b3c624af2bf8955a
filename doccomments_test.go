package egress

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

// Every exported type of the package and every JSON field has a doc comment:
// they become the online documentation. Fields that withDefaults fills in name
// their default.
func TestDocComments(t *testing.T) {
	docs := docComments(t)
	for name, doc := range docs {
		if doc == "" {
			t.Errorf("%s has no doc comment", name)
		}
	}
	withDefault := []string{"Handler.ServerName", "Handler.Forwarded", "Handler.Auth", "Handler.AllowedPorts", "Auth.Realm", "KeepAlive.Enabled", "Tunnel.Timeout", "Transport.MaxConns"}
	transport := (*Transport)(nil).withDefaults()
	for _, v := range []any{transport, *transport.KeepAlive, (*Tunnel)(nil).withDefaults(), (*DestinationCircuit)(nil).withDefaults()} {
		for f, value := range reflect.ValueOf(v).Fields() {
			if value.Kind() != reflect.Pointer && !value.IsZero() {
				withDefault = append(withDefault, reflect.TypeOf(v).Name()+"."+f.Name)
			}
		}
	}
	if len(withDefault) < 20 {
		t.Errorf("only %d fields with a default: %v", len(withDefault), withDefault)
	}
	for _, name := range withDefault {
		if !strings.Contains(docs[name], "Default:") {
			t.Errorf("the doc comment of %s does not say 'Default:': %q", name, docs[name])
		}
	}
	for _, typ := range configTypes {
		for name, f := range jsonFields(typ) {
			if _, ok := docs[typ.Name()+"."+f.Name]; !ok {
				t.Errorf("no doc comment found for %s.%s", typ.Name(), name)
			}
		}
	}
}

// docComments are the doc comments of exported types ("T"), their exported
// fields ("T.F") and methods, and exported functions ("func F").
func docComments(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared, err := filepath.Glob("upstreams/*.go")
	if err != nil || len(declared) < 5 {
		t.Fatal(declared, err)
	}
	files = append(files, declared...)
	docs := make(map[string]string)
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Name.IsExported() && exportedReceiver(decl) {
					docs["func "+decl.Name.Name+" in "+path] = decl.Doc.Text()
				}
			case *ast.GenDecl:
				typeDocs(decl, docs)
			}
		}
	}
	return docs
}

// exportedReceiver reports whether a function is a method of an exported type,
// or none.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	name, ok := typ.(*ast.Ident)
	return !ok || name.IsExported()
}

func typeDocs(decl *ast.GenDecl, docs map[string]string) {
	for _, spec := range decl.Specs {
		spec, ok := spec.(*ast.TypeSpec)
		if !ok || !spec.Name.IsExported() {
			continue
		}
		doc := spec.Doc.Text()
		if doc == "" {
			doc = decl.Doc.Text()
		}
		docs[spec.Name.Name] = doc
		fields, ok := spec.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range fields.Fields.List {
			for _, name := range f.Names {
				if name.IsExported() {
					docs[fmt.Sprintf("%s.%s", spec.Name.Name, name.Name)] = f.Doc.Text()
				}
			}
		}
	}
}
