package words

// Elsewhere says what to write instead of words that people bring along from
// other directives.
var Elsewhere = map[string]string{
	"fail_duration":     "circuit { window … } or destination_circuit { window … }",
	"max_fails":         "circuit { consecutive_failures … } or destination_circuit { failures … }",
	"unhealthy_status":  "nothing: the answer of an origin is no sign of its health, nor of that of an upstream",
	"unhealthy_latency": "nothing: lb_policy p2c_ewma avoids slow upstreams",
	"to":                "upstream",
	"health_uri":        "health_check",
	"dial_timeout":      "transport { dial_timeout … }",
	"max_idle_conns":    "transport { keepalive_idle_conns … }",
	"basicauth":         "basic_auth",
	"allow":             "acl { allow … }",
	"deny":              "acl { deny … }",
}

// Suggest is the hint behind an unknown word: what to write instead, or the
// known word that is most like it.
func Suggest[V any](word string, known map[string]V) string {
	if hint, ok := Elsewhere[word]; ok {
		return " (write " + hint + ")"
	}
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
