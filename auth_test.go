package egress

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Hashes of "secret", as cheap as the algorithms allow.
const (
	bcrypt4 = "$2a$04$hVVHCepejjqcqZbgQt02lOpx16lGG4CKn18bhbh7viccSmedsy2WG"
	bcrypt5 = "$2a$05$rRN6Yy51Ibeq4higzdMhFuvSZDA7YVebr/CITwBbLSHm67JlnwYH6"
	argon64 = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$+v0rf6ETYAIpqJIjJyARZ3W3zqJlkf+0TRXzsLHmR6o"
)

// newAuth provisions an Auth with a memory of its own.
func newAuth(tb testing.TB, users ...BasicUser) *Auth {
	tb.Helper()
	a := &Auth{Basic: users, verifier: newVerifier(2)}
	if err := provisionAuth(tb, a, zap.NewNop()); err != nil {
		tb.Fatal(err)
	}
	return a
}

// newAuthAfter provisions an Auth with the memory of one before.
func newAuthAfter(tb testing.TB, before *Auth, users ...BasicUser) *Auth {
	tb.Helper()
	a := &Auth{Basic: users, verifier: before.verifier}
	if err := provisionAuth(tb, a, zap.NewNop()); err != nil {
		tb.Fatal(err)
	}
	return a
}

// authenticate is login for a client that stays, where there is room for all.
func (a *Auth) authenticate(header http.Header) (user, session string, failed authFailure) {
	user, session, failed, err := a.login(context.Background(), "192.0.2.1", header)
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

func basicHeader(user, password string) http.Header {
	return authHeader("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func authHeader(values ...string) http.Header {
	return http.Header{"Proxy-Authorization": values}
}

// logTo returns a logger that writes everything it gets to buf.
func logTo(buf *bytes.Buffer) *zap.Logger {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(buf), zap.DebugLevel))
}

// countingComparer counts the checks that reach the algorithm behind it.
type countingComparer struct {
	caddyauth.Comparer
	calls atomic.Int64
}

func (c *countingComparer) Compare(hashed, plaintext []byte) (bool, error) {
	c.calls.Add(1)
	return c.Comparer.Compare(hashed, plaintext)
}

// countComparers returns one counter for each class of a, in their order.
func countComparers(a *Auth) []*countingComparer {
	var counters []*countingComparer
	for _, class := range a.classes {
		c := &countingComparer{Comparer: class.comparer}
		class.comparer = c
		counters = append(counters, c)
	}
	return counters
}

func takeCounts(counters []*countingComparer) string {
	var counts []int64
	for _, c := range counters {
		counts = append(counts, c.calls.Swap(0))
	}
	return fmt.Sprint(counts)
}

// comparerFunc is a hash algorithm made of one function.
type comparerFunc func(hashed, plaintext []byte) (bool, error)

func (f comparerFunc) Compare(hashed, plaintext []byte) (bool, error) { return f(hashed, plaintext) }

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
	if user, _, failure := a.authenticate(basicHeader("bob", "secret")); user != "" || failure != authUnknownUser {
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
		{"colon", "", []BasicUser{{"a:b", "x"}}, "basic_auth user 'a:b': a user name cannot contain ':'"},
		{"colon from placeholder", "", []BasicUser{{"{env.EGRESS_TEST_NAME}", "x"}}, "basic_auth user 'a:b': a user name cannot contain ':'"},
		{"control", "", []BasicUser{{"a\nb", "x"}}, `basic_auth user 'a\nb': a user name cannot contain control characters`},
		{"C1 control", "", []BasicUser{{"a\u0085b", "x"}}, `basic_auth user 'a\u0085b': a user name cannot contain control characters`},
		{"long name", "", []BasicUser{{strings.Repeat("n", 257), "x"}}, "basic_auth user '" + strings.Repeat("n", 257) + "': a user name cannot be longer than 256 bytes"},
		{"doubled", "", []BasicUser{{"bob", "x"}, {"bob", "y"}}, "basic_auth user 'bob' is defined twice"},
		{"no password", "", bob(""), "basic_auth user 'bob': the password is empty"},
		{"unset variable", "", bob("{env.EGRESS_TEST_EMPTY}"), "basic_auth user 'bob': nothing is left of the password after its placeholders are replaced"},
		{"long password", "", bob(strings.Repeat("p", 1025)), "basic_auth user 'bob': a password cannot be longer than 1024 bytes"},

		{"bcrypt cut", "", bob(bcrypt4[:59]), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt too long", "", bob(bcrypt4 + "x"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt with newline", "", bob(bcrypt4 + "\n"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt cost 3", "", bob(strings.Replace(bcrypt4, "$04$", "$03$", 1)), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt cost 32", "", bob(strings.Replace(bcrypt4, "$04$", "$32$", 1)), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt 2x", "", bob("$2x" + bcrypt4[3:]), "basic_auth user 'bob': malformed bcrypt hash"},
		{"bcrypt alphabet", "", bob(bcrypt4[:59] + "+"), "basic_auth user 'bob': malformed bcrypt hash"},
		{"plain that begins like bcrypt", "", bob("$20 note"), "basic_auth user 'bob': malformed bcrypt hash"},

		{"argon2id fields", "", bob("$argon2id$v=19$m=64,t=1,p=1"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id version", "", bob("$argon2id$v=16$m=64,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id order", "", bob("$argon2id$v=19$t=1,m=64,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id number", "", bob("$argon2id$v=19$m=99999999999,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id no passes", "", bob("$argon2id$v=19$m=64,t=0,p=1$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id no threads", "", bob("$argon2id$v=19$m=64,t=1,p=0$" + key + "$" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id empty key", "", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id short key", "", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$AAAA"), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id base64", "", bob("$argon2id$v=19$m=64,t=1,p=1$" + key + "$!" + key), "basic_auth user 'bob': malformed argon2id hash"},
		{"argon2id memory", "", bob("$argon2id$v=19$m=4194305,t=1,p=1$" + key + "$" + key), "basic_auth user 'bob': an argon2id hash cannot ask for more than 4194304 KiB of memory"},

		{"md5", "", bob("$1$salt$hash"), unsupported},
		{"apr1", "", bob("$apr1$salt$hash"), unsupported},
		{"sha512", "", bob("$6$rounds=5000$salt$hash"), unsupported},
		{"argon2i", "", bob("$argon2i$v=19$m=64,t=1,p=1$" + key + "$" + key), unsupported},
		{"escaped dollars", "", bob("$$2a$$04$$abc"), unsupported},
		{"SHA", "", bob("{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="), unsupported},
		{"ssha512", "", bob("{ssha512}abc"), unsupported},
		{"CRYPT", "", bob("{CRYPT}abc"), unsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			err := provisionAuth(t, &Auth{Realm: tc.realm, Basic: tc.users}, logTo(&log))
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
	a := &Auth{Basic: []BasicUser{{"ann", "swordfish"}, {"bob", bcrypt4}, {"cid", "sturgeon"}}}
	if err := provisionAuth(t, a, logTo(&log)); err != nil {
		t.Fatal(err)
	}
	got := log.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `"level":"warn"`) || !strings.Contains(got, `"users":["ann","cid"]`) {
		t.Errorf("logged %s", got)
	}
	if strings.Contains(got, "swordfish") || strings.Contains(got, "sturgeon") || strings.Contains(got, "$2a$") {
		t.Errorf("logged a password: %s", got)
	}
	if a.verifier != sharedVerifier {
		t.Error("not the verifier of the process")
	}

	log.Reset()
	if err := provisionAuth(t, &Auth{Basic: []BasicUser{{"bob", bcrypt4}}}, logTo(&log)); err != nil || log.Len() > 0 {
		t.Errorf("hashes only: err %v, logged %s", err, &log)
	}
}

func TestAuthPlaceholders(t *testing.T) {
	t.Setenv("EGRESS_TEST_USER", "env-user")
	t.Setenv("EGRESS_TEST_PASSWORD", "env:pass")
	t.Setenv("EGRESS_TEST_HASH", bcrypt4)
	a := newAuth(t,
		BasicUser{"{env.EGRESS_TEST_USER}", "{env.EGRESS_TEST_PASSWORD}"},
		BasicUser{"hashed", "{env.EGRESS_TEST_HASH}"},
		BasicUser{"braces", "a{b}c"})
	for user, password := range map[string]string{"env-user": "env:pass", "hashed": "secret", "braces": "a{b}c"} {
		if got, _, failure := a.authenticate(basicHeader(user, password)); got != user || failure != "" {
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

func TestAuthHeaderForms(t *testing.T) {
	users := []BasicUser{{"bob", "secret"}, {"colon", "a:b:"}, {"Zoë", "pässword"}, {strings.Repeat("n", 256), strings.Repeat("p", 1024)}}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	bob := encode("bob:secret")
	for _, tc := range []struct {
		name    string
		header  http.Header
		user    string
		Failure authFailure
	}{
		{"none", http.Header{}, "", authMissing},
		{"nil header", nil, "", authMissing},
		{"only Authorization", http.Header{"Authorization": {"Basic " + bob}}, "", authMissing},
		{"good", authHeader("Basic " + bob), "bob", ""},
		{"lower case scheme", authHeader("basic " + bob), "bob", ""},
		{"upper case scheme", authHeader("BASIC " + bob), "bob", ""},
		{"spaces", authHeader("Basic   " + bob + " "), "bob", ""},
		{"colons in password", basicHeader("colon", "a:b:"), "colon", ""},
		{"UTF-8", basicHeader("Zoë", "pässword"), "Zoë", ""},
		{"longest", basicHeader(users[3].Username, users[3].Password), users[3].Username, ""},

		{"empty", authHeader(""), "", authMalformed},
		{"scheme only", authHeader("Basic"), "", authMalformed},
		{"scheme and space", authHeader("Basic "), "", authMalformed},
		{"no space", authHeader("Basic" + bob), "", authMalformed},
		{"other scheme", authHeader("Bearer " + bob), "", authMalformed},
		{"two fields", authHeader("Basic "+bob, "Basic "+bob), "", authMalformed},
		{"two in one field", authHeader("Basic " + bob + ", Basic " + bob), "", authMalformed},
		{"not base64", authHeader("Basic bob:secret"), "", authMalformed},
		{"no padding", authHeader("Basic " + strings.TrimRight(encode("bob:secre"), "=") + "A"), "", authMalformed},
		{"padding missing", authHeader("Basic " + strings.TrimRight(encode("bob:x"), "=")), "", authMalformed},
		{"base64url", authHeader("Basic " + base64.URLEncoding.EncodeToString([]byte("bob:\xff\xff\xff"))), "", authMalformed},
		{"no colon", authHeader("Basic " + encode("bobsecret")), "", authMalformed},
		{"user too long", basicHeader(strings.Repeat("n", 257), "x"), "", authMalformed},
		{"password too long", basicHeader("bob", strings.Repeat("p", 1025)), "", authMalformed},
		{"all too long", basicHeader("bob", strings.Repeat("p", 1<<20)), "", authMalformed},

		{"unknown", basicHeader("eve", "secret"), "", authUnknownUser},
		{"no user", basicHeader("", "secret"), "", authUnknownUser},
		{"other case", basicHeader("Bob", "secret"), "", authUnknownUser},
		{"NUL behind user", basicHeader("bob\x00", "secret"), "", authUnknownUser},
		{"wrong password", basicHeader("bob", "Secret"), "", authBadPassword},
		{"no password", basicHeader("bob", ""), "", authBadPassword},
		{"prefix of password", basicHeader("bob", "secre"), "", authBadPassword},
		{"password of another", basicHeader("bob", "a:b:"), "", authBadPassword},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAuth(t, users...)
			if user, _, failure := a.authenticate(tc.header); user != tc.user || failure != tc.Failure {
				t.Errorf("got %q, %q; want %q, %q", user, failure, tc.user, tc.Failure)
			}
		})
	}
}

func TestAuthHashes(t *testing.T) {
	var users []BasicUser
	for i, password := range []string{
		bcrypt4, bcrypt5, argon64, "secret",
		strings.Replace(bcrypt4, "$2a$", "$2b$", 1),
		strings.Replace(bcrypt4, "$2a$", "$2y$", 1),
	} {
		users = append(users, BasicUser{fmt.Sprint("user", i), password})
	}
	a := newAuth(t, users...)
	if len(a.classes) != 3 {
		t.Errorf("%d classes, want 3: the letter of bcrypt is no cost", len(a.classes))
	}
	for range 2 { // the second time from memory
		for _, u := range users {
			if user, _, failure := a.authenticate(basicHeader(u.Username, "secret")); user != u.Username || failure != "" {
				t.Errorf("%s: got %q, %q", u.Password, user, failure)
			}
			if user, _, failure := a.authenticate(basicHeader(u.Username, "Secret")); user != "" || failure != authBadPassword {
				t.Errorf("%s, wrong password: got %q, %q", u.Password, user, failure)
			}
		}
	}
}

// Every failure takes one check of each class, whoever it is for: that is
// what the time of an answer shows.
func TestAuthFailuresCostTheSame(t *testing.T) {
	a := newAuth(t, BasicUser{"b4", bcrypt4}, BasicUser{"b5", bcrypt5}, BasicUser{"argon", argon64}, BasicUser{"plain", "secret"})
	counters := countComparers(a)
	for i, user := range []string{"b4", "b5", "argon", "plain", "nobody", ""} {
		for range 2 { // failures are not remembered
			a.authenticate(basicHeader(user, fmt.Sprint("wrong", i)))
			if got := takeCounts(counters); got != "[1 1 1]" {
				t.Errorf("user %q: checks by class %s, want [1 1 1]", user, got)
			}
		}
	}
}

func TestAuthSuccessCostsItsOwnHashOnce(t *testing.T) {
	a := newAuth(t, BasicUser{"b4", bcrypt4}, BasicUser{"b5", bcrypt5}, BasicUser{"plain", "secret"})
	counters := countComparers(a)
	for _, step := range []struct{ user, password, want string }{
		{"b4", "secret", "[1 0]"},
		{"b4", "secret", "[0 0]"}, // remembered
		{"b5", "secret", "[0 1]"}, // but for b4 only
		{"b4", "wrong", "[1 1]"},  // and with that password only
		{"plain", "secret", "[0 0]"},
		{"nobody", "secret", "[1 1]"},
	} {
		a.authenticate(basicHeader(step.user, step.password))
		if got := takeCounts(counters); got != step.want {
			t.Errorf("%s:%s: checks by class %s, want %s", step.user, step.password, got, step.want)
		}
	}
}

// Whatever a comparer says, there is no user to log in as.
func TestAuthStrangerNeverPasses(t *testing.T) {
	a := newAuth(t, BasicUser{"bob", bcrypt4})
	a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) { return true, nil })
	a.stranger.class = a.classes[0]
	if user, _, failure := a.authenticate(basicHeader("eve", "secret")); user != "" || failure != authUnknownUser {
		t.Errorf("got %q, %q", user, failure)
	}
}

func TestAuthPlainOnlyDoesNoSlowWork(t *testing.T) {
	a := newAuth(t, BasicUser{"bob", "secret"})
	a.verifier = nil // would panic
	if _, _, failure := a.authenticate(basicHeader("eve", "x")); failure != authUnknownUser {
		t.Errorf("got %q", failure)
	}
}

// What is remembered belongs to a hash: a new configuration with the same one
// starts warm, one with a changed one does not let the old password in.
func TestAuthMemoryOverReload(t *testing.T) {
	old := newAuth(t, BasicUser{"bob", bcrypt4})
	old.authenticate(basicHeader("bob", "secret"))

	same := newAuthAfter(t, old, BasicUser{"bob", bcrypt4})
	counters := countComparers(same)
	if user, _, _ := same.authenticate(basicHeader("bob", "secret")); user != "bob" || takeCounts(counters) != "[0]" {
		t.Error("the check was repeated after a reload")
	}

	otherHash := "$2a$04$h98ohS5O9ZfSs8RfoMKGZeksYkAck5mMrBn.Q8gbckgLTkIBOFWIa" // of "other"
	changed := newAuthAfter(t, old, BasicUser{"bob", otherHash})
	if _, _, failure := changed.authenticate(basicHeader("bob", "secret")); failure != authBadPassword {
		t.Errorf("old password: got %q", failure)
	}
	if user, _, _ := changed.authenticate(basicHeader("bob", "other")); user != "bob" {
		t.Error("new password refused")
	}
}

func TestAuthFakesAreValidAndOfTheSameCost(t *testing.T) {
	a := newAuth(t, BasicUser{"b5", bcrypt5}, BasicUser{"argon", argon64})
	for i, prefix := range []string{bcrypt5[:7], argon64[:28]} {
		class := a.classes[i]
		if !bytes.HasPrefix(class.fake, []byte(prefix)) {
			t.Errorf("fake %s, want it to begin with %s", class.fake, prefix)
		}
		if same, err := class.comparer.Compare(class.fake, []byte("secret")); same || err != nil {
			t.Errorf("fake %s: %t, %v", class.fake, same, err)
		}
	}
}

func TestAuthComparerErrorIsAFailure(t *testing.T) {
	var log bytes.Buffer
	a := newAuth(t, BasicUser{"bob", bcrypt4})
	a.logger = logTo(&log)
	a.classes[0].comparer = comparerFunc(func(hashed, _ []byte) (bool, error) {
		return true, errors.New("cannot read " + string(hashed))
	})
	if user, _, failure := a.authenticate(basicHeader("bob", "secret")); user != "" || failure != authBadPassword {
		t.Errorf("got %q, %q", user, failure)
	}
	got := log.String()
	if !strings.Contains(got, `"user":"bob"`) || strings.Contains(got, "$2a$") || strings.Contains(got, "secret") {
		t.Errorf("logged %s", got)
	}
}

func TestAuthNoCredentialsInLogs(t *testing.T) {
	var log bytes.Buffer
	a := newAuth(t, BasicUser{"bob", bcrypt4}, BasicUser{"plain", "sturgeon"})
	a.logger = logTo(&log)
	for _, h := range []http.Header{basicHeader("bob", "wrong"), basicHeader("eve", "x"), authHeader("Basic !"), basicHeader("plain", "sturgeon")} {
		a.authenticate(h)
	}
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
}

func TestAuthEqualChecksRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, BasicUser{"bob", bcrypt4})
		a.verifier = newVerifier(4)
		var calls atomic.Int64
		gate := make(chan struct{})
		a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) {
			calls.Add(1)
			<-gate
			return true, nil
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if user, _, _ := a.authenticate(basicHeader("bob", "secret")); user != "bob" {
					t.Errorf("got %q", user)
				}
			})
		}
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d checks at once, want 1", n)
		}
		close(gate)
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d checks, want 1", n)
		}
	})
}

func TestAuthFewSlowChecksAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name        string
		slots       int
		threads     int64
		wantAtOnce  int64
		wantInTotal int64
	}{
		{"one", 1, 1, 1, 9},
		{"three", 3, 1, 3, 9},
		{"checks of two threads", 4, 2, 2, 9},
		{"more threads than slots", 2, 8, 1, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuth(t, BasicUser{"bob", bcrypt4})
				a.verifier = newVerifier(tc.slots)
				var running, total atomic.Int64
				gate := make(chan struct{})
				a.classes[0].threads = tc.threads
				a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) {
					running.Add(1)
					total.Add(1)
					<-gate
					running.Add(-1)
					return false, nil
				})
				var wg sync.WaitGroup
				for i := range 9 {
					wg.Go(func() { a.authenticate(basicHeader("bob", fmt.Sprint(i))) })
				}
				synctest.Wait()
				if n := running.Load(); n != tc.wantAtOnce {
					t.Errorf("%d at once, want %d", n, tc.wantAtOnce)
				}
				close(gate)
				wg.Wait()
				if n := total.Load(); n != tc.wantInTotal {
					t.Errorf("%d in total, want %d", n, tc.wantInTotal)
				}
			})
		})
	}
}

func TestAuthConcurrent(t *testing.T) {
	a := newAuth(t, BasicUser{"b4", bcrypt4}, BasicUser{"argon", argon64}, BasicUser{"plain", "secret"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				for _, user := range []string{"b4", "argon", "plain"} {
					if got, _, failure := a.authenticate(basicHeader(user, "secret")); got != user {
						t.Errorf("%s: got %q, %q", user, got, failure)
					}
					if got, _, failure := a.authenticate(basicHeader(user, fmt.Sprint(i, j%3))); got != "" || failure != authBadPassword {
						t.Errorf("%s, wrong password: got %q, %q", user, got, failure)
					}
				}
				if got, _, failure := a.authenticate(basicHeader("eve", "secret")); got != "" || failure != authUnknownUser {
					t.Errorf("stranger: got %q, %q", got, failure)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAuth(b *testing.B) {
	a := newAuth(b, BasicUser{"hashed", bcrypt4}, BasicUser{"plain", "secret"})
	plainOnly := newAuth(b, BasicUser{"plain", "secret"})
	for _, bc := range []struct {
		name   string
		auth   *Auth
		header http.Header
		want   authFailure
	}{
		{"remembered", a, basicHeader("hashed", "secret"), ""},
		{"plain", a, basicHeader("plain", "secret"), ""},
		{"plain_only_failure", plainOnly, basicHeader("eve", "secret"), authUnknownUser},
		{"missing", a, http.Header{}, authMissing},
	} {
		b.Run(bc.name, func(b *testing.B) {
			if _, _, failure := bc.auth.authenticate(bc.header); failure != bc.want {
				b.Fatal(failure)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bc.auth.authenticate(bc.header)
				}
			})
		})
		b.Run(bc.name+"_serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bc.auth.authenticate(bc.header)
			}
		})
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
		a := &Auth{Session: &Session{Separator: tc.separator}, users: map[string]*credential{"ada": {name: "ada"}, "ada-s-b": {name: "ada-s-b"}}}
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
