package auth

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// Users that nobody has made must not let anybody in.
func TestNoneFailsClosed(t *testing.T) {
	for _, a := range []*Users{nil, {}} {
		if user, _, failed := a.authenticate(fixture.BasicLogin("bob", "secret")); user != "" || failed != UnknownUser {
			t.Errorf("got %q, %q", user, failed)
		}
	}
}

// What is known of passwords belongs to the process, and to no configuration.
func TestNew(t *testing.T) {
	a, err := New(Config{Users: []User{{"bob", fixture.Bcrypt4}, {"plain", "sturgeon"}}, Hashes: hashes, Logger: zap.NewNop()})
	if err != nil || a.verifier != sharedVerifier {
		t.Errorf("not the verifier of the process, or %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	const unsupported = "basic_auth user 'bob': unsupported password hash; " +
		"bcrypt ($2a$, $2b$, $2y$) and argon2id ($argon2id$) are supported"
	bob := func(password string) []User { return []User{{"bob", password}} }
	const key = "c2FsdHNhbHRzYWx0c2FsdA" // 16 bytes
	for _, tc := range []struct {
		name  string
		users []User
		want  string
	}{
		{"no name", []User{{"a", "x"}, {"", "x"}}, "basic_auth user number 2 has no name"},
		{"colon", []User{{"a:b", "x"}}, "basic_auth user 'a:b': a user name cannot contain ':'"},
		{"control", []User{{"a\nb", "x"}}, `basic_auth user 'a\nb': a user name cannot contain control characters`},
		{"C1 control", []User{{"a\u0085b", "x"}}, `basic_auth user 'a\u0085b': a user name cannot contain control characters`},
		{"long name", []User{{strings.Repeat("n", 257), "x"}}, "basic_auth user '" + strings.Repeat("n", 257) + "': a user name cannot be longer than 256 bytes"},
		{"doubled", []User{{"bob", "x"}, {"bob", "y"}}, "basic_auth user 'bob' is defined twice"},
		{"no password", bob(""), "basic_auth user 'bob': the password is empty"},
		{"long password", bob(strings.Repeat("p", 1025)), "basic_auth user 'bob': a password cannot be longer than 1024 bytes"},

		{"bcrypt cut", bob(fixture.Bcrypt4[:59]), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt too long", bob(fixture.Bcrypt4 + "x"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt with newline", bob(fixture.Bcrypt4 + "\n"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt cost 3", bob(strings.Replace(fixture.Bcrypt4, "$04$", "$03$", 1)), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt cost 32", bob(strings.Replace(fixture.Bcrypt4, "$04$", "$32$", 1)), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt 2x", bob("$2x" + fixture.Bcrypt4[3:]), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt alphabet", bob(fixture.Bcrypt4[:59] + "+"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"plain that begins like bcrypt", bob("$20 note"), "basic_auth user 'bob': malformed bcrypt hash"},

		{"argon2id fields", bob("$argon2id$v=19$m=64,t=1,p=1"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id version", bob("$argon2id$v=16$m=64,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id order", bob("$argon2id$v=19$t=1,m=64,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id number", bob("$argon2id$v=19$m=99999999999,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id no passes", bob("$argon2id$v=19$m=64,t=0,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id no threads", bob("$argon2id$v=19$m=64,t=1,p=0$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id empty key", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id short key", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$AAAA"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id base64", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$!" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id loose bits", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$" + key[:21] + "B"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id padding", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$" + key + "=="), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id salt", bob("$argon2id$v=19$m=64,t=1,p=1$" + key[:21] + "B$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id passes", bob("$argon2id$v=19$m=64,t=4294967296,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id threads", bob("$argon2id$v=19$m=64,t=1,p=256$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id memory", bob("$argon2id$v=19$m=4194305,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': an argon2id hash cannot ask for more than 4194304 KiB of memory"},

		{"md5", bob("$1$salt$hash"), unsupported},
		{"apr1", bob("$apr1$salt$hash"), unsupported},
		{"sha512", bob("$6$rounds=5000$salt$hash"), unsupported},
		{"argon2i", bob("$argon2i$v=19$m=64,t=1,p=1$" + key + "$" + key), unsupported},
		{"escaped dollars", bob("$$2a$$04$$abc"), unsupported},
		{"SHA", bob("{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="), unsupported},
		{"ssha512", bob("{ssha512}abc"), unsupported},
		{"CRYPT", bob("{CRYPT}abc"), unsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			users, err := New(Config{Users: tc.users, Hashes: hashes, Logger: fixture.LogTo(&log)})
			if users != nil || err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if log.Len() > 0 {
				t.Errorf("logged %s", &log)
			}
		})
	}
}

func TestNoCredentialsInLogs(t *testing.T) {
	var log bytes.Buffer
	a := newTest(t, User{"bob", fixture.Bcrypt4}, User{"plain", "sturgeon"})
	a.logger = fixture.LogTo(&log)
	for _, h := range []http.Header{fixture.BasicLogin("bob", "wrong"), fixture.BasicLogin("eve", "x"), fixture.Login("Basic !"), fixture.BasicLogin("plain", "sturgeon")} {
		a.authenticate(h)
	}
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
}

// Where the session is cut off a user name: at the last separator behind the name of
// a user, also where separators overlap.
func TestSessionOfUserName(t *testing.T) {
	for _, tc := range []struct{ separator, name, user, session string }{
		{"--", "ada--7", "ada", "7"},
		{"--", "ada---7", "ada", "-7"},
		{"--", "ada--7--8", "ada", "7--8"},
		{"--", "ada--", "ada", ""},
		{"--", "ada", "ada", ""},
		{"--", "eve--ada--7", "", ""},
		{"-s-", "ada-s-s-7", "ada", "s-7"},
		{"-s-", "ada-s-b-s-7", "ada-s-b", "7"},
	} {
		a := &Users{separator: tc.separator, users: map[string]*credential{"ada": {name: "ada"}, "ada-s-b": {name: "ada-s-b"}}}
		user := ""
		cred, _, session := a.find([]byte(tc.name))
		if cred != nil {
			user = cred.name
		}
		if user != tc.user || session != tc.session {
			t.Errorf("%s with %s: user %q, session %q", tc.name, tc.separator, user, session)
		}
	}
}
