package matchers

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// toldMatchers are the matchers whose settings are told. Of others only the name is:
// fields of requests, expressions and modules of others may hold what is secret.
var toldMatchers = []string{"client_ip", "host", "method", "path", "protocol", "remote_ip"}

// Texts are matcher sets as people may read them. A set that matches
// everything is empty.
func Texts(sets caddyhttp.RawMatcherSets) []string {
	var texts []string
	for _, set := range sets {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(set)) {
			words = append(words, name+settings(name, set[name]))
		}
		texts = append(texts, strings.Join(words, ", "))
	}
	return texts
}

func settings(name string, raw json.RawMessage) string {
	var fields map[string]json.RawMessage
	switch {
	case slices.Contains(toldMatchers, name):
		var compact any
		if json.Unmarshal(raw, &compact) != nil {
			return "" // loading it says what is wrong
		}
		text, err := json.Marshal(compact)
		if err != nil {
			return ""
		}
		return " " + string(text)
	case name == "header" && json.Unmarshal(raw, &fields) == nil:
		return " " + strings.Join(slices.Sorted(maps.Keys(fields)), " ")
	}
	return ""
}
