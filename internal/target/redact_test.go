package target

import (
	"net/http"
	"testing"
)

// No log has the password that a client puts in front of a host.
func TestHideUser(t *testing.T) {
	for _, tc := range []struct{ method, uri, want string }{
		{"GET", "http://joe:secret@a.example/x?y=z@w", "http://REDACTED@a.example/x?y=z@w"},
		{"GET", "ftp://joe:secret@a.example", "ftp://REDACTED@a.example"},
		{"GET", "http://a@b:c@a.example/", "http://REDACTED@a.example/"},
		{"GET", "http://a.example/joe@x", "http://a.example/joe@x"},
		{"GET", "/joe@x?u=http://a:b@c/", "/joe@x?u=http://a:b@c/"},
		{"GET", "*", "*"},
		{"GET", "http:joe:secret@a.example/@x", "http:REDACTED@a.example/@x"},
		{"GET", "HTTP:/joe:secret@a.example/", "HTTP:/REDACTED@a.example/"},
		{"GET", "http:///joe:secret@a.example/", "http:///REDACTED@a.example/"},
		{"GET", "//joe:secret@a.example/", "//REDACTED@a.example/"},
		{"GET", "joe:secret@a.example/", "REDACTED@a.example/"},
		{"GET", "joe:12?secret@a.example", "REDACTED@a.example"},
		{"GET", "http://joe:12?secret@a.example/", "http://REDACTED@a.example/"},
		{"GET", "http://a.example/?joe@x", "http://a.example/?joe@x"},
		{"GET", "http://a.example?x=y", "http://a.example?x=y"},
		{"CONNECT", "joe:secret@a.example:443", "REDACTED@a.example:443"},
		{"CONNECT", "joe:http://x@a.example:443", "REDACTED@a.example:443"},
		{"CONNECT", "a.example:443", "a.example:443"},
	} {
		if got := RedactedURI(&http.Request{Method: tc.method, RequestURI: tc.uri}); got != tc.want {
			t.Errorf("%s %s: %s", tc.method, tc.uri, got)
		}
	}
}
