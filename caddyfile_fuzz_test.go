package egress

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/admin"
)

// FuzzCaddyfile: whatever stands behind egress in a Caddyfile is refused with an
// error, or is a configuration whose JSON reads as the same configuration again,
// and that is provisioned or refused with nothing of it left behind.
func FuzzCaddyfile(f *testing.F) {
	for _, g := range goldens(f) {
		for _, block := range egressBlocks(g.caddyfile) {
			f.Add(block, true)
		}
	}
	base, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, Logging: &caddy.Logging{
		Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{Level: "PANIC"}}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	base.Context = admin.WithRegistry(base.Context, new(admin.Registry))
	f.Fuzz(func(t *testing.T, text string, provision bool) {
		if len(text) > 1<<14 {
			return
		}
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		config := mustMarshal(t, h)
		again := new(Handler)
		if err := caddy.StrictUnmarshalJSON(config, again); err != nil {
			t.Fatalf("%q adapts to %s: %v", text, config, err)
		}
		if got := mustMarshal(t, again); !bytes.Equal(got, config) {
			t.Fatalf("%q adapts to %s, which reads as %s", text, config, got)
		}
		// A hash may ask for gigabytes, and a path may be that of anything.
		for _, risk := range []string{`"$`, `"/`, "file", "{env", "automate"} {
			if bytes.Contains(config, []byte(risk)) {
				return
			}
		}
		if provision {
			provisionFuzzed(t, base, config)
		}
	})
}

// provisionFuzzed provisions a configuration, and ends it.
func provisionFuzzed(t *testing.T, base caddy.Context, config []byte) {
	before := poolCount()
	ctx, cancel := caddy.NewContext(base)
	_, err := ctx.LoadModuleByID("http.handlers.egress", config)
	cancel()
	if n := poolCount(); n != before {
		t.Fatalf("%s (%v): %d pools are held, %d were before", config, err, n, before)
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// egressBlocks are the egress directives of a Caddyfile that is formatted.
func egressBlocks(text string) (blocks []string) {
	var block []string
	depth := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(block) == 0 && (len(words) == 0 || words[0] != "egress") {
			continue
		}
		block = append(block, line)
		for _, w := range words {
			switch w {
			case "{":
				depth++
			case "}":
				depth--
			}
		}
		if depth == 0 {
			blocks, block = append(blocks, strings.Join(block, "")), nil
		}
	}
	return blocks
}
