package auth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// FuzzProxyAuthorization holds the reading of credentials against that of
// net/http, and the session that a user name may end with against a search that
// tries every place.
func FuzzProxyAuthorization(f *testing.F) {
	f.Add("Basic YWRhOm9uZQ==", "ada", "one", "-s-")
	f.Add("basic   YWRhOm9uZQ==  ", "ada-s-7", "o:ne", "-s-")
	f.Add("Basic YWRh", "ada-s-b-s-", "", "-s")
	f.Add("Digest username=ada", "ada---7", "x", "--")
	f.Add("Basic ====", strings.Repeat("a", maxUsernameBytes+1), strings.Repeat("x", maxPasswordBytes+1), "a")
	f.Add("Basic", "b-s-1", "\x00\xff", "s")
	f.Fuzz(func(t *testing.T, value, user, password, separator string) {
		if len(value) > 1<<14 || len(user) > 1<<12 || len(password) > 1<<12 {
			return
		}
		compareBasicAuth(t, value)
		value = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
		gotUser, gotPassword := compareBasicAuth(t, value)
		if fits := len(user) <= maxUsernameBytes && len(password) <= maxPasswordBytes; fits && !strings.Contains(user, ":") &&
			(gotUser != user || gotPassword != password) {
			t.Fatalf("%q is %q and %q, want %q and %q", value, gotUser, gotPassword, user, password)
		}
		if separator != "" {
			compareSession(t, user, separator)
		}
	})
}

// compareBasicAuth reads a field as net/http would, but for spaces around the
// credentials, and limits.
func compareBasicAuth(t *testing.T, value string) (user, password string) {
	u, p, failed := parse(http.Header{"Proxy-Authorization": {value}})
	scheme, encoded, _ := strings.Cut(value, " ")
	r := http.Request{Header: http.Header{"Authorization": {scheme + " " + strings.Trim(encoded, " ")}}}
	wantUser, wantPassword, ok := r.BasicAuth()
	ok = ok && len(wantUser) <= maxUsernameBytes && len(wantPassword) <= maxPasswordBytes
	if ok != (failed == "") || ok && (string(u) != wantUser || string(p) != wantPassword) {
		t.Fatalf("%q: %q %q %s, net/http has %q %q %t", value, u, p, failed, wantUser, wantPassword, ok)
	}
	return string(u), string(p)
}

func compareSession(t *testing.T, name, separator string) {
	a := &Users{separator: separator, users: map[string]*credential{"ada": {name: "ada"}, "ada-s-b": {name: "ada-s-b"}, "b": {name: "b"}}}
	wantUser, wantSession := "", ""
	for i := 0; a.users[name] == nil && i+len(separator) <= len(name); i++ {
		if strings.HasPrefix(name[i:], separator) && a.users[name[:i]] != nil {
			wantUser, wantSession = name[:i], name[i+len(separator):]
		}
	}
	if a.users[name] != nil {
		wantUser = name
	}
	user, session := "", ""
	if cred, _, s := a.find([]byte(name)); cred != nil {
		user, session = cred.name, s
	}
	if user != wantUser || session != wantSession {
		t.Fatalf("%q with %q: user %q, session %q; want %q, %q", name, separator, user, session, wantUser, wantSession)
	}
}
