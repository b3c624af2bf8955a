package egress

import (
	"fmt"
	"strings"
	"testing"
)

// What a word of the Caddyfile takes as its value is not refused by a second bound when the
// module is provisioned, which knows no line: the bound of both is one.
func TestWords_OneBound(t *testing.T) {
	around := map[string]string{
		"egress":                "%s",
		"acl":                   "acl {\n%s\n}",
		"destination_circuit":   "destination_circuit {\n%s\n}",
		"route":                 "route {\n%s\nto direct\n}",
		"upstreams <group>":     "route a\nupstreams a {\nupstream http://192.0.2.1\nhealth_check tcp\n%s\n}",
		"upstream <url>":        "upstream https://192.0.2.1 {\n%s\n}",
		"circuit":               "route a\nupstreams a {\nupstream http://192.0.2.1\ncircuit {\n%s\n}\n}",
		"transport":             "transport {\n%s\n}",
		"tunnel":                "tunnel {\n%s\n}",
		"local_address <ip...>": "transport {\nlocal_address 127.0.0.1 {\n%s\n}\n}",
	}
	values := []string{"0", "1", "2", "7", "101", "99999", "1000000000", "9000000000000", "1ms", "150ms", "1s", "9000h", "200000h", "0%", "1%", "100%", "1KiB", "1GiB", "1TiB"}
	texts := map[string]bool{ // of which a number is a strange one
		"allow_file": true, "deny_file": true, "file": true, "hosts": true, "realm": true, "server_name": true,
		"upstreams": true, "tls_curves": true, "health_status": true, "health_body": true,
	}
	accepted := 0
	for _, b := range grammarBlocks() {
		frame, ok := around[b.Text]
		if !ok {
			t.Fatalf("no frame for %s", b.Text)
		}
		for word := range b.Words {
			if texts[word] {
				continue
			}
			for _, value := range values {
				line := word + " " + value
				raw, err := adapt(t, "http://:1 {\negress {\n"+fmt.Sprintf(frame, line)+"\n}\n}\n")
				if err != nil {
					if !strings.Contains(err.Error(), "Caddyfile:") {
						t.Errorf("%s { %s }: %v: no line", b.Text, line, err)
					}
					continue
				}
				accepted++
				if err := validate(raw); err != nil {
					t.Errorf("%s { %s } is read, and refused later: %v", b.Text, line, err)
				}
			}
		}
	}
	if accepted < 300 {
		t.Errorf("only %d of all were read", accepted)
	}
}
