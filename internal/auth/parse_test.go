package auth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

func TestHeaderForms(t *testing.T) {
	users := []User{{"bob", "secret"}, {"colon", "a:b:"}, {"Zoë", "pässword"}, {strings.Repeat("n", 256), strings.Repeat("p", 1024)}}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	bob := encode("bob:secret")
	for _, tc := range []struct {
		name    string
		header  http.Header
		user    string
		Failure Failure
	}{
		{"none", http.Header{}, "", Missing},
		{"nil header", nil, "", Missing},
		{"only Authorization", http.Header{"Authorization": {"Basic " + bob}}, "", Missing},
		{"good", fixture.Login("Basic " + bob), "bob", ""},
		{"lower case scheme", fixture.Login("basic " + bob), "bob", ""},
		{"upper case scheme", fixture.Login("BASIC " + bob), "bob", ""},
		{"spaces", fixture.Login("Basic   " + bob + " "), "bob", ""},
		{"colons in password", fixture.BasicLogin("colon", "a:b:"), "colon", ""},
		{"UTF-8", fixture.BasicLogin("Zoë", "pässword"), "Zoë", ""},
		{"longest", fixture.BasicLogin(users[3].Name, users[3].Password), users[3].Name, ""},

		{"empty", fixture.Login(""), "", Malformed},
		{"scheme only", fixture.Login("Basic"), "", Malformed},
		{"scheme and space", fixture.Login("Basic "), "", Malformed},
		{"no space", fixture.Login("Basic" + bob), "", Malformed},
		{"other scheme", fixture.Login("Bearer " + bob), "", Malformed},
		{"two fields", fixture.Login("Basic "+bob, "Basic "+bob), "", Malformed},
		{"two in one field", fixture.Login("Basic " + bob + ", Basic " + bob), "", Malformed},
		{"not base64", fixture.Login("Basic bob:secret"), "", Malformed},
		{"no padding", fixture.Login("Basic " + strings.TrimRight(encode("bob:secre"), "=") + "A"), "", Malformed},
		{"padding missing", fixture.Login("Basic " + strings.TrimRight(encode("bob:x"), "=")), "", Malformed},
		{"base64url", fixture.Login("Basic " + base64.URLEncoding.EncodeToString([]byte("bob:\xff\xff\xff"))), "", Malformed},
		{"no colon", fixture.Login("Basic " + encode("bobsecret")), "", Malformed},
		{"user too long", fixture.BasicLogin(strings.Repeat("n", 257), "x"), "", Malformed},
		{"password too long", fixture.BasicLogin("bob", strings.Repeat("p", 1025)), "", Malformed},
		{"all too long", fixture.BasicLogin("bob", strings.Repeat("p", 1<<20)), "", Malformed},

		{"unknown", fixture.BasicLogin("eve", "secret"), "", UnknownUser},
		{"no user", fixture.BasicLogin("", "secret"), "", UnknownUser},
		{"other case", fixture.BasicLogin("Bob", "secret"), "", UnknownUser},
		{"NUL behind user", fixture.BasicLogin("bob\x00", "secret"), "", UnknownUser},
		{"wrong password", fixture.BasicLogin("bob", "Secret"), "", BadPassword},
		{"no password", fixture.BasicLogin("bob", ""), "", BadPassword},
		{"prefix of password", fixture.BasicLogin("bob", "secre"), "", BadPassword},
		{"password of another", fixture.BasicLogin("bob", "a:b:"), "", BadPassword},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newTest(t, users...)
			if user, _, failed := a.authenticate(tc.header); user != tc.user || failed != tc.Failure {
				t.Errorf("got %q, %q; want %q, %q", user, failed, tc.user, tc.Failure)
			}
		})
	}
}
