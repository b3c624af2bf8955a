package admin

import "testing"

// A body has the fields that there are, each once.
func TestFields(t *testing.T) {
	for body, want := range map[string]string{
		`{"state":"drain","for":"1m","reason":"x"}`:    "",
		`{"state":"drain","state":"drain"}`:            "field 'state' stands twice",
		`{"State":"drain"}`:                            "field 'State' is unknown; write 'state'",
		`{"state":"ready","ſtate":"drain"}`:            "field 'ſtate' is unknown; write 'state'",
		`{"state":"ready","\u017ftate":"drain"}`:       "field 'ſtate' is unknown; write 'state'",
		`{"\u0073tate":"ready"}`:                       "",
		`{"state":{"a":[{"b":1,"b":2}]}}`:              "field 'b' stands twice",
		`{"state":{"a":[1,[{}],{"b":1}],"b":{"a":1}}}`: "",
		`[]`: "it is not a JSON object",
	} {
		err := checkFields([]byte(body), []string{"state", "weight", "for", "reason"})
		if got := said(err); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
