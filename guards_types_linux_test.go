package egress

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// This file contains the test that no type of connection is left out of the table of
// guards, and no connection out of what it relies on.

// notGuarded are types that look like connections and are in no row.
var notGuarded = map[string]string{
	"h1.Conn":            "an exchange over a connection of the table",
	"h1.tlsReader":       "reads a connection of the table",
	"origin.Conn":        "an h1.Conn with its address",
	"dnscache.stream":    "carries one query at a time, whose answer is told by its ID and question; a broken one is followed by a new one",
	"dnscache.heardConn": "carries queries of a server over HTTP/2, which pings it",
	"relay.dead":         "stands in for a stream that was nil",
}

// labs are directories with tools for tests and measurements, which relay nothing for
// clients.
var labs = []string{"bench", "internal/testkit/faultnet", "internal/testkit/soak", "internal/testkit/peers", "integration", "testdata"}

// eachSource calls f with every file of the module that is no test.
func eachSource(t *testing.T, f func(path string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains(labs, filepath.ToSlash(path)) || path != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			f(path, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// text is a type or a function as it is written, without its package's own prefix.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return text(e.X)
	case *ast.IndexExpr:
		return text(e.X)
	case *ast.IndexListExpr:
		return text(e.X)
	case *ast.SelectorExpr:
		return text(e.X) + "." + e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// embedsConn reports whether a struct embeds a type that is called a connection.
func embedsConn(s *ast.StructType) bool {
	return slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
		return len(f.Names) == 0 && strings.HasSuffix(strings.ToLower(text(f.Type)), "conn")
	})
}

// TestGuards_EveryTypeIsListed: a type that embeds a connection, or that is read,
// written and closed, is in a row of the table, or it is said why not.
func TestGuards_EveryTypeIsListed(t *testing.T) {
	found := map[string]bool{}
	methods := map[string]map[string]bool{}
	eachSource(t, func(_ string, file *ast.File) {
		pkg := file.Name.Name + "."
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					ts, ok := spec.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if s, ok := ts.Type.(*ast.StructType); ok && embedsConn(s) {
						found[pkg+ts.Name.Name] = true
					}
				}
			case *ast.FuncDecl:
				if decl.Recv == nil {
					continue
				}
				name := pkg + text(decl.Recv.List[0].Type)
				if methods[name] == nil {
					methods[name] = map[string]bool{}
				}
				methods[name][decl.Name.Name] = true
			}
		}
	})
	for name, has := range methods {
		if has["Read"] && has["Write"] && has["Close"] || has["Write"] && has["Close"] && has["SetReadDeadline"] || has["ReadAtHand"] {
			found[name] = true
		}
	}
	listed := map[string]bool{"h1.socket": true} // how TCP and unix sockets are read at hand
	for _, row := range guardTable {
		for _, name := range row.types {
			listed[name] = true
		}
	}
	for name := range found {
		if !listed[name] && notGuarded[name] == "" {
			t.Errorf("%s looks like a connection: what do the guards do with it? Give it a row in guardTable, or a reason in notGuarded", name)
		}
	}
	for name := range listed {
		if !found[name] {
			t.Errorf("%s is listed, but there is no such connection", name)
		}
	}
	for name := range notGuarded {
		if !found[name] {
			t.Errorf("%s has a reason in notGuarded, but does not look like a connection", name)
		}
	}
}

// TestGuards_TLSCanBeLookedAt: TLS towards origins and upstreams runs on what lets it
// be looked at while it is idle.
func TestGuards_TLSCanBeLookedAt(t *testing.T) {
	clients := 0
	eachSource(t, func(path string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || text(call.Fun) != "tls.Client" || filepath.ToSlash(filepath.Dir(path)) == "internal/dnscache" {
				return true
			}
			clients++
			if over, ok := call.Args[0].(*ast.CallExpr); !ok || text(over.Fun) != "h1.NoteEOF" {
				t.Errorf("%s: tls.Client without h1.NoteEOF below it: the connection would never be reused", path)
			}
			return true
		})
	})
	if clients == 0 {
		t.Error("no call of tls.Client was found: this tests nothing")
	}
}
