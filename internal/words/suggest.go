package words

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// Elsewhere says what to write instead of words that people bring along from
// other directives.
var Elsewhere = map[string]string{
	"fail_duration":     "circuit { window … } or destination_circuit { window … }",
	"max_fails":         "circuit { consecutive_failures … } or destination_circuit { failures … }",
	"unhealthy_status":  "nothing: the answer of an origin is no sign of its health, nor of that of an upstream",
	"unhealthy_latency": "nothing: lb_policy p2c_ewma avoids slow upstreams",
	"to":                "upstream",
	"health_uri":        "health_check",
	"max_idle_conns":    "transport { keepalive_idle_conns … }",
	"basicauth":         "basic_auth",
}

// hint is what stands behind an unknown word: what to write instead, the blocks that
// it belongs to, or the known word that is most like it.
func hint(word string, known map[string]func() error, others Grammar) string {
	if instead, ok := Elsewhere[word]; ok {
		return " (write " + instead + ")"
	}
	if others != nil {
		var places []string
		for _, other := range others() {
			if _, ok := other.Words[word]; ok {
				places = append(places, other.Text+" { "+word+" … }")
			}
		}
		if places != nil {
			return " (write " + strings.Join(places, " or ") + ")"
		}
	}
	return Suggest(word, known)
}

// Known is the error of a name that is not among those that there are.
func Known(what, name string, there []string) error {
	if slices.Contains(there, name) {
		return nil
	}
	set := make(map[string]bool, len(there))
	for _, n := range there {
		set[n] = true
	}
	list := "there is none"
	if len(there) > 0 {
		list = "one of " + strings.Join(there, ", ")
	}
	return fmt.Errorf("unknown %s '%s'%s: %s", what, plaintext.Printable(name), Suggest(name, set), list)
}

// Module checks that the current token is the name of a module in the namespace.
func Module(d *caddyfile.Dispenser, namespace, what string) error {
	var names []string
	for _, m := range caddy.GetModules(namespace) {
		names = append(names, m.ID.Name())
	}
	slices.Sort(names)
	if err := Known(what, d.Val(), names); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Suggest is the hint behind an unknown word: the known one that is most like it.
func Suggest[V any](word string, known map[string]V) string {
	best, distance := "", 3
	for candidate := range known {
		if n := editDistance(word, candidate); n < distance || n == distance && candidate < best {
			best, distance = candidate, n
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean '" + best + "'?)"
}

// editDistance counts the letters to insert, delete or replace to get from a to
// b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
