package egress

import (
	"bytes"
	"encoding/json"
	stdflag "flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

var updateGolden = stdflag.Bool("update", false, "write what Caddyfiles adapt to into testdata")

// golden is a Caddyfile and the JSON that it must adapt to.
type golden struct {
	name      string
	caddyfile string
	json      string
}

const goldenSeparator = "\n----------\n"

// goldens reads testdata/adapt, and examples/ with what belongs to it in
// testdata/examples.
func goldens(tb testing.TB) []golden {
	tb.Helper()
	var all []golden
	files, _ := filepath.Glob("testdata/adapt/*.caddyfiletest")
	for _, path := range files {
		caddyfile, want, ok := strings.Cut(readFile(tb, path), goldenSeparator)
		if !ok {
			tb.Fatalf("%s has no line of dashes", path)
		}
		all = append(all, golden{path, caddyfile, want})
	}
	examples, _ := os.ReadDir("examples")
	for _, e := range examples {
		if e.IsDir() {
			continue // read by the examples themselves
		}
		want := ""
		if path := exampleJSON(e.Name()); !*updateGolden {
			want = readFile(tb, path)
		}
		all = append(all, golden{filepath.Join("examples", e.Name()), readFile(tb, filepath.Join("examples", e.Name())), want})
	}
	if len(files) == 0 || len(examples) == 0 {
		tb.Fatalf("%d golden files, %d examples", len(files), len(examples))
	}
	return all
}

func exampleJSON(name string) string { return filepath.Join("testdata", "examples", name+".json") }

func (g golden) update(t *testing.T, got string) {
	path, text := g.name, g.caddyfile+goldenSeparator+got
	if filepath.Dir(path) == "examples" {
		path, text = exampleJSON(filepath.Base(path)), got
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func indent(t *testing.T, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func TestAdapt(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			got := indent(t, mustAdapt(t, g.caddyfile))
			if *updateGolden {
				g.update(t, got)
				return
			}
			if got != g.json {
				t.Errorf("adapts to something else; if that is right, run with -update\n got %s\nwant %s", got, g.json)
			}
		})
	}
}

// What the golden files say can be loaded: the handler accepts its own output.
func TestGoldenJSONIsValid(t *testing.T) {
	all := goldens(t)
	for _, g := range all {
		for _, m := range regexp.MustCompile(`\{env\.([A-Z_]+)\}`).FindAllStringSubmatch(g.json, -1) {
			t.Setenv(m[1], "secret")
		}
	}
	t.Chdir(t.TempDir())
	writeCertificates(t)
	for _, g := range all {
		t.Run(g.name, func(t *testing.T) {
			before := poolCount()
			if err := validate([]byte(g.json)); err != nil {
				t.Error(err)
			}
			if n := poolCount(); n != before {
				t.Errorf("%d pools after validation, %d before", n, before)
			}
		})
	}
}
