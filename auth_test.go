package egress

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

func newAuth(tb testing.TB, users ...BasicUser) *Auth {
	tb.Helper()
	a := &Auth{Basic: users}
	if err := provisionAuth(tb, a, zap.NewNop()); err != nil {
		tb.Fatal(err)
	}
	return a
}

// authenticate is a login for a client that stays, where there is room for all.
func (a *Auth) authenticate(header http.Header) (user, session string, failed auth.Failure) {
	user, session, failed, err := a.users.Login(context.Background(), "192.0.2.1", header)
	if err != nil {
		panic(err)
	}
	return user, session, failed
}

func provisionAuth(tb testing.TB, a *Auth, logger *zap.Logger) error {
	tb.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	return a.provision(ctx, logger)
}

func TestAuthEnabled(t *testing.T) {
	var none *Auth
	if none.enabled() {
		t.Error("nil is enabled")
	}
	if (&Auth{Realm: "x"}).enabled() {
		t.Error("no users, but enabled")
	}
	if !(&Auth{Basic: []BasicUser{{"a", "b"}}}).enabled() {
		t.Error("a user, but not enabled")
	}
}

// An Auth that nobody provisioned must not let anybody in.
func TestAuthUnprovisionedFailsClosed(t *testing.T) {
	a := &Auth{Basic: []BasicUser{{"bob", "secret"}}}
	if user, _, failure := a.authenticate(fixture.BasicLogin("bob", "secret")); user != "" || failure != auth.UnknownUser {
		t.Errorf("got %q, %q", user, failure)
	}
}

func TestAuthProvisionErrors(t *testing.T) {
	const unsupported = "basic_auth user 'bob': unsupported password hash; " +
		"bcrypt ($2a$, $2b$, $2y$) and argon2id ($argon2id$) are supported"
	bob := func(password string) []BasicUser { return []BasicUser{{"bob", password}} }
	t.Setenv("EGRESS_TEST_EMPTY", "")
	t.Setenv("EGRESS_TEST_NAME", "a:b")
	const key = "c2FsdHNhbHRzYWx0c2FsdA" // 16 bytes
	for _, tc := range []struct {
		name  string
		realm string
		users []BasicUser
		want  string
	}{
		{"realm", "a\r\nb", bob("x"), `realm 'a\r\nb' contains control characters`},
		{"realm with tab", "a\tb", nil, `realm 'a\tb' contains control characters`},
		{"no name", "", []BasicUser{{"a", "x"}, {"", "x"}}, "basic_auth user number 2 has no name"},
		{"colon from placeholder", "", []BasicUser{{"{env.EGRESS_TEST_NAME}", "x"}}, "basic_auth user 'a:b': a user name cannot contain ':'"},
		{"control", "", []BasicUser{{"a\nb", "x"}}, `basic_auth user 'a\nb': a user name cannot contain control characters`},
		{"no password", "", bob(""), "basic_auth user 'bob': the password is empty"},
		{"unset variable", "", bob("{env.EGRESS_TEST_EMPTY}"), "basic_auth user 'bob': the password is empty after replacing {env.EGRESS_TEST_EMPTY}: is it set?"},
		{"bcrypt cut", "", bob(fixture.Bcrypt4[:59]), "basic_auth user 'bob': malformed bcrypt hash"},
		{"argon2id base64", "", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$!" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id memory", "", bob("$argon2id$v=19$m=4194305,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': an argon2id hash cannot ask for more than 4194304 KiB of memory"},
		{"md5", "", bob("$1$salt$hash"), unsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			err := provisionAuth(t, &Auth{Realm: tc.realm, Basic: tc.users}, fixture.LogTo(&log))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if log.Len() > 0 {
				t.Errorf("logged %s", &log)
			}
		})
	}
}

func TestAuthProvisionWarnsOnceAboutPlainPasswords(t *testing.T) {
	var log bytes.Buffer
	a := &Auth{Basic: []BasicUser{{"ann", "swordfish"}, {"bob", fixture.Bcrypt4}, {"cid", "sturgeon"}}}
	if err := provisionAuth(t, a, fixture.LogTo(&log)); err != nil {
		t.Fatal(err)
	}
	got := log.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `"level":"warn"`) || !strings.Contains(got, `"users":["ann","cid"]`) {
		t.Errorf("logged %s", got)
	}
	if strings.Contains(got, "swordfish") || strings.Contains(got, "sturgeon") || strings.Contains(got, "$2a$") {
		t.Errorf("logged a password: %s", got)
	}

	log.Reset()
	if err := provisionAuth(t, &Auth{Basic: []BasicUser{{"bob", fixture.Bcrypt4}}}, fixture.LogTo(&log)); err != nil || log.Len() > 0 {
		t.Errorf("hashes only: err %v, logged %s", err, &log)
	}
}

func TestAuthPlaceholders(t *testing.T) {
	t.Setenv("EGRESS_TEST_USER", "env-user")
	t.Setenv("EGRESS_TEST_PASSWORD", "env:pass")
	t.Setenv("EGRESS_TEST_HASH", fixture.Bcrypt4)
	a := newAuth(t,
		BasicUser{"{env.EGRESS_TEST_USER}", "{env.EGRESS_TEST_PASSWORD}"},
		BasicUser{"hashed", "{env.EGRESS_TEST_HASH}"},
		BasicUser{"braces", "a{b}c"})
	for user, password := range map[string]string{"env-user": "env:pass", "hashed": "secret", "braces": "a{b}c"} {
		if got, _, failure := a.authenticate(fixture.BasicLogin(user, password)); got != user || failure != "" {
			t.Errorf("%s: got %q, %q", user, got, failure)
		}
	}
	if a.Basic[0].Username != "{env.EGRESS_TEST_USER}" || a.Basic[0].Password != "{env.EGRESS_TEST_PASSWORD}" {
		t.Errorf("the configuration was changed: %v", a.Basic[0])
	}
}

func TestAuthChallengeRFC7617Section2_1(t *testing.T) {
	for realm, want := range map[string]string{
		"":             `Basic realm="Caddy Egress", charset="UTF-8"`,
		"Proxy":        `Basic realm="Proxy", charset="UTF-8"`,
		`a "b" \c`:     `Basic realm="a \"b\" \\c", charset="UTF-8"`,
		"Zürich, Büro": `Basic realm="Zürich, Büro", charset="UTF-8"`,
	} {
		if got := (&Auth{Realm: realm}).challenge(); got != want {
			t.Errorf("realm %q: got %s, want %s", realm, got, want)
		}
	}
}

func TestAuthHashes(t *testing.T) {
	var users []BasicUser
	for i, password := range []string{
		fixture.Bcrypt4, fixture.Bcrypt5, fixture.Argon64, "secret",
		strings.Replace(fixture.Bcrypt4, "$2a$", "$2b$", 1),
		strings.Replace(fixture.Bcrypt4, "$2a$", "$2y$", 1),
	} {
		users = append(users, BasicUser{fmt.Sprint("user", i), password})
	}
	a := newAuth(t, users...)
	for range 2 { // the second time from memory
		for _, u := range users {
			if user, _, failure := a.authenticate(fixture.BasicLogin(u.Username, "secret")); user != u.Username || failure != "" {
				t.Errorf("%s: got %q, %q", u.Password, user, failure)
			}
			if user, _, failure := a.authenticate(fixture.BasicLogin(u.Username, "Secret")); user != "" || failure != auth.BadPassword {
				t.Errorf("%s, wrong password: got %q, %q", u.Password, user, failure)
			}
		}
	}
}

// Credentials are in no log, and Caddy's modules can read the hashes that stand for those
// of strangers: there would be an error else.
func TestAuthNoCredentialsInLogs(t *testing.T) {
	var log bytes.Buffer
	a := &Auth{Basic: []BasicUser{{"bob", fixture.Bcrypt4}, {"ann", fixture.Argon64}, {"plain", "sturgeon"}}}
	if err := provisionAuth(t, a, fixture.LogTo(&log)); err != nil {
		t.Fatal(err)
	}
	log.Reset() // of the warning about plain passwords
	for _, h := range []http.Header{fixture.BasicLogin("bob", "wrong"), fixture.BasicLogin("eve", "x"), fixture.Login("Basic !"), fixture.BasicLogin("plain", "sturgeon")} {
		a.authenticate(h)
	}
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
}

// What is taken for a hash of argon2id is what Caddy's module can read.
func TestAuthHashesReadAsByCaddy(t *testing.T) {
	const key = "c2FsdHNhbHRzYWx0c2FsdA"
	for _, hash := range []string{
		fixture.Argon64,
		"$argon2id$v=19$m=4194304,t=4294967295,p=255$" + key + "$" + key,
		"$argon2id$v=19$m=064,t=01,p=01$c2E$" + key,
		"$argon2id$v=19$m=4294967296,t=1,p=1$" + key + "$" + key,
		"$argon2id$v=19$m=64,t=4294967296,p=1$" + key + "$" + key,
		"$argon2id$v=19$m=64,t=1,p=256$" + key + "$" + key,
		"$argon2id$v=18$m=64,t=1,p=1$" + key + "$" + key,
		"$argon2id$v=19$m=64,t=1$" + key + "$" + key,
		"$argon2id$v=19$m=64,t=1,p=1$" + key[:21] + "B$" + key, // bits that belong to no byte
		"$argon2id$v=19$m=64,t=1,p=1$" + key + "$" + key[:21] + "B",
		"$argon2id$v=19$m=64,t=1,p=1$" + key + "==$" + key,
		"$argon2id$v=19$m=64,t=1,p=1$" + key + "$" + key + "==",
		"$argon2id$v=19$m=64,t=1,p=1$" + key + "$\n" + key,
		"$argon2id$v=19$m=64,t=1,p=1$" + key + "$" + key + "$",
	} {
		_, _, theirs := caddyauth.DecodeHash([]byte(hash))
		ours := provisionAuth(t, &Auth{Basic: []BasicUser{{"bob", hash}}}, zap.NewNop())
		if (theirs == nil) != (ours == nil) {
			t.Errorf("%q: Caddy says %v, we say %v", hash, theirs, ours)
		}
	}
}

// Clients that are refused because too many logins are being checked are told when to
// come back.
func TestAuthRetryAfter(t *testing.T) {
	for _, err := range []error{failure.Logins, failure.ClientLogins} {
		if core.RetryAfter(err) <= 0 {
			t.Errorf("%v: not told", err)
		}
	}
}
