package egress

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the tests of what documents say about the configuration:
// snippets load, words of the reference exist, and its values are the defaults.

var fencedCaddyfile = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")

const referenceBegins = "egress [<matcher>]"

// snippets are the Caddyfiles in the documents, by where they stand; the reference is
// not among them.
func snippets(t *testing.T) (all map[string]string, reference string) {
	all = make(map[string]string)
	for _, file := range documents(t) {
		text := readFile(t, file)
		for _, m := range fencedCaddyfile.FindAllStringSubmatchIndex(text, -1) {
			snippet := text[m[2]:m[3]]
			if strings.HasPrefix(snippet, referenceBegins) {
				reference = snippet
				continue
			}
			all[fmt.Sprintf("%s:%d", file, 1+strings.Count(text[:m[0]], "\n"))] = snippet
		}
	}
	if len(all) < 2 || reference == "" {
		t.Fatalf("%d snippets, and a reference of %d bytes", len(all), len(reference))
	}
	return all, reference
}

// Each snippet is a Caddyfile, or words of egress, that can be loaded.
func TestDocuments_SnippetsLoad(t *testing.T) {
	all, _ := snippets(t)
	for where, text := range all {
		t.Run(where, func(t *testing.T) {
			if !strings.Contains(text, "egress") {
				text = ":8080 {\negress {\n" + text + "\n}\n}\n"
			}
			for _, m := range regexp.MustCompile(`\{env\.([A-Z_]+)\}`).FindAllStringSubmatch(text, -1) {
				t.Setenv(m[1], "secret")
			}
			if err := validate(mustAdapt(t, text)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Examples are as `caddy fmt` has them, so that nobody begins with a warning.
func TestExamples_Formatted(t *testing.T) {
	files, err := filepath.Glob("examples/*Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text := readFile(t, file)
		if want := string(caddyfile.Format([]byte(text))); text != want {
			t.Errorf("%s is not formatted; run caddy fmt", file)
		}
	}
}

// referenceWord is a word of a reference, in its block.
type referenceWord struct {
	path []string // the blocks around it, without egress
	word string
	args string
}

var (
	referenceComment = regexp.MustCompile(`(^|\s+)# .*$`)
	referenceBlock   = regexp.MustCompile(`\s*\{ \S+ \}$`) // one that is only hinted at
)

// referenceWords reads the words of a reference. Alternatives are words of their own.
func referenceWords(t *testing.T, text string) (all []referenceWord) {
	t.Helper()
	var path []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(referenceComment.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		line = referenceBlock.ReplaceAllString(line, "")
		line, opens := strings.CutSuffix(line, "{")
		word, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "}" {
			path = path[:len(path)-1]
			continue
		}
		if strings.HasSuffix(word, ",") { // a list of words without arguments
			word, args = strings.ReplaceAll(line, ", ", "|"), ""
		}
		for w := range strings.SplitSeq(word, "|") {
			if w != "" && w[0] != '<' && !strings.Contains(w, "…") && len(path) > 0 {
				all = append(all, referenceWord{path[1:], w, strings.TrimSpace(args)})
			}
		}
		if opens {
			path = append(slices.Clone(path), word)
		}
	}
	if len(path) != 0 || len(all) < 100 {
		t.Fatalf("%d words, and blocks %v are open", len(all), path)
	}
	return all
}

// openers are blocks as a Caddyfile has them, where they need arguments.
var openers = map[string]string{
	"route": "route direct", "upstream": "upstream http://127.0.0.1:1", "upstreams": "upstreams g",
	"resolvers": "resolvers tls://192.0.2.1", "local_address": "local_address 192.0.2.1",
}

// config is a Caddyfile with a line in the block of the word.
func (w referenceWord) config(line string) string {
	text, beside := ":8080 {\negress {\n", ""
	for _, b := range w.path {
		opener, ok := openers[b]
		if !ok {
			opener = b
		}
		text += opener + " {\n"
		if b == "upstreams" {
			text += "upstream http://127.0.0.1:1\nhealth_check tcp\n"
			beside = "\nroute g"
		}
	}
	return text + line + strings.Repeat("\n}", len(w.path)) + beside + "\n}\n}\n"
}

// The words of the reference in the README, and of that of UnmarshalCaddyfile, are
// known in their blocks; and what the one has, the other has.
func TestDocuments_ReferenceWords(t *testing.T) {
	_, readme := snippets(t)
	_, comment, _ := strings.Cut(readFile(t, "caddyfile.go"), "//\tegress [<matcher>]")
	comment, _, _ = strings.Cut(comment, "\n//\t}\n")
	comment = referenceBegins + strings.ReplaceAll(comment, "\n//", "\n") + "\n}"
	for _, r := range []struct{ from, text, other string }{
		{"README.md", readme, comment},
		{"caddyfile.go", comment, readme},
	} {
		for _, w := range referenceWords(t, r.text) {
			_, err := adapt(t, w.config(w.word))
			if err != nil && strings.Contains(err.Error(), "unrecognized subdirective '"+w.word+"'") {
				t.Errorf("%s: %v", r.from, err)
			}
			if !regexp.MustCompile(`(^|[\s|,])` + w.word + `($|[\s|,])`).MatchString(r.other) {
				t.Errorf("%s: %v %s is not in the other reference", r.from, w.path, w.word)
			}
		}
	}
}

// The values of the reference in the README are the defaults: to write one changes
// nothing.
func TestDocuments_ReferenceDefaults(t *testing.T) {
	_, readme := snippets(t)
	value := regexp.MustCompile(`^[0-9a-z_.]+(%|KiB)?$`)
	checked := 0
	for _, w := range referenceWords(t, readme) {
		if !value.MatchString(w.args) || len(w.path) == 0 {
			continue
		}
		got := effective(t, w.config(w.word+" "+w.args))
		want := effective(t, w.config(""))
		if got != want {
			t.Errorf("%v %s %s is not the default:\n got %s\nwant %s", w.path, w.word, w.args, got, want)
		}
		checked++
	}
	if checked < 40 {
		t.Errorf("only %d values", checked)
	}
}

// effective is what a handler makes of its settings, with off as nothing.
func effective(t *testing.T, text string) string {
	t.Helper()
	found, cleanUp, err := admin.ProvisionDry(mustAdapt(t, text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer cleanUp()
	h, err := findHandler(found, "")
	if err != nil {
		t.Fatal(err)
	}
	all := []any{h.transport, h.tunnel, h.circuit}
	for name, g := range h.groups {
		healthConfig, err := h.Groups[name].Health(false)
		if err != nil {
			t.Fatal(err)
		}
		checks, err := h.Groups[name].Checks()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, selection.NameOf(g.Policy()), g.Balancing(), healthConfig, checks)
		for _, m := range g.Members() {
			spec := *m.Spec
			spec.TLS = nil // which has no JSON
			all = append(all, spec)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var settings any
	if err := json.Unmarshal(raw, &settings); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(withoutOff(settings))
}

// withoutOff leaves out what is not set or off.
func withoutOff(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch value := withoutOff(value).(type) {
			case map[string]any, []any:
			default:
				if value == nil || value == -1.0 || value == 0.0 || value == "" || value == false {
					delete(v, key)
				}
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutOff(v[i])
		}
	}
	return v
}

// The fields of the access log that the README names are placeholders, and those that
// the handler documents are in the README.
func TestDocuments_LogFields(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "| field | meaning |\n| --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	inReadme := make(map[string]bool)
	for row := range strings.Lines(table) {
		names, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(names, -1) {
			inReadme[m[1]] = true
			if _, ok := new(incoming).placeholder(placeholderPrefix + m[1]); !ok {
				t.Errorf("{http.egress.%s} is no placeholder", m[1])
			}
		}
	}
	documented := regexp.MustCompile(`\{http\.egress\.([a-z_]+)\}`).FindAllStringSubmatch(readFile(t, "module.go"), -1)
	if len(documented) < 10 || len(documented) != len(inReadme) {
		t.Errorf("%d placeholders are documented, %d in the README", len(documented), len(inReadme))
	}
	for _, m := range documented {
		if !inReadme[m[1]] {
			t.Errorf("%s is not in the README", m[1])
		}
	}
}
