package upstream

import (
	"net/http"
	"testing"
)

// A 407 to a check in absolute form is the upstream's only without a Via: behind one it may be
// the target's, which takes no upstream out.
func TestRefusesCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		header http.Header
		want   bool
	}{
		"407":            {407, http.Header{}, true},
		"407, challenge": {407, http.Header{"Proxy-Authenticate": {"Basic realm=x"}}, true},
		"behind Via":     {407, http.Header{"Via": {"1.1 up"}, "Proxy-Authenticate": {"Basic realm=x"}}, false},
		"tinyproxy":      {401, http.Header{"Server": {"tinyproxy/1.11.1"}}, true},
		"a 401":          {401, http.Header{"Server": {"nginx"}}, false},
		"a page":         {200, http.Header{}, false},
	} {
		if got := refusesCheck(&http.Response{StatusCode: tc.status, Header: tc.header}); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
