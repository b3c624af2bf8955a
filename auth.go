package egress

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains who may use the proxy: the user list, the reading of
// Proxy-Authorization, and the checking of passwords.

// Auth says who may use the proxy. With at least one user in it, a request
// without valid credentials in its Proxy-Authorization field (RFC 9110
// §11.7.2) is refused with 407 and the challenge of RFC 7617. Without users
// the proxy is open to everybody who can reach it.
type Auth struct {
	// The users who may log in with HTTP Basic authentication (RFC 7617).
	// Two users of the same name are an error.
	//
	// Default: none, which means that no authentication is required.
	Basic []BasicUser `json:"basic,omitempty"`

	// The realm (RFC 9110 §11.5) that clients show when they ask for
	// credentials. A control character in it is an error.
	//
	// Default: `Caddy Egress`.
	Realm string `json:"realm,omitempty"`

	// Session lets clients name a session in their login, for selection
	// policies that keep a session on one upstream. Default: none.
	Session *Session `json:"session,omitempty"`

	users    map[string]*credential
	stranger credential   // takes the place of a user we do not know
	classes  []*hashClass // every distinct amount of slow work in users
	verifier *verifier
	logger   *zap.Logger
}

// Session is where the session of a client is written.
type Session struct {
	// Separator stands between the name of the user and that of the session
	// in the user name of the credentials: with `-session-`,
	// `alice-session-7` logs in as `alice`, with her password, and has the
	// session `7`. Where it stands more than once, the last one counts that
	// leaves the name of a user. A user whose whole name is known has no
	// session. A colon or control character in it is an error.
	Separator string `json:"separator"`
}

// BasicUser is one user name with its password.
type BasicUser struct {
	// The name, at most 256 bytes after placeholders are replaced. An empty
	// name, a colon (RFC 7617 §2) and control characters are errors. Global
	// placeholders such as `{env.PROXY_USER}` are replaced at provision.
	Username string `json:"username" placeholders:"own"`

	// The password or its hash. What begins with `$2` is a bcrypt hash
	// (`$2a$`, `$2b$`, `$2y$`), what begins with `$argon2id$` is an argon2id
	// hash (RFC 9106) of at most 4 GiB of memory; `caddy hash-password` makes
	// both. bcrypt looks at the first 72 bytes of a password only. Malformed
	// hashes and other hash schemes (`$1$`, `$apr1$`, `{SHA}`) are errors.
	// Anything else is the password itself, of at most 1,024 bytes. Global
	// placeholders such as `{env.PROXY_PASSWORD}` are replaced at provision;
	// nothing left after that is an error.
	//
	// A plain password is readable by everybody who can read the
	// configuration or the admin API, which is why it is warned about.
	Password string `json:"password" placeholders:"own"`
}

// authFailure says why a request is not authenticated, in the words of the
// placeholder {http.egress.auth_error}. It is empty on success.
type authFailure string

const (
	authMissing     authFailure = "missing"      // no Proxy-Authorization
	authMalformed   authFailure = "malformed"    // doubled, too long, another scheme, or not base64 of user:password
	authUnknownUser authFailure = "unknown_user" // well-formed, but nobody of that name
	authBadPassword authFailure = "bad_password" // a user of ours with another password
)

const (
	defaultRealm = "Caddy Egress"

	// What a client sends is limited before it is decoded and hashed. No
	// person types more, and tokens used as passwords fit.
	maxUsernameBytes = 256
	maxPasswordBytes = 1024

	// Go allocates what the hash asks for and dies if it cannot. RFC 9106 §4
	// recommends 2 GiB at most.
	maxArgon2MemoryKiB = 4 << 20
)

// credential is a user as the verifier needs it. The plain password is not
// kept, only its sum under the key of this process.
type credential struct {
	name  string
	hash  []byte        // the slow hash; nil for a plain password
	class *hashClass    // what checks hash; nil for a plain password
	known *remembered   // of the slow hash; nil for a plain password
	sum   credentialSum // of name and plain password; random for a slow hash, so that it never matches
}

// hashClass is one amount of slow work: all hashes with the same algorithm and
// the same cost parameters take equally long to check.
type hashClass struct {
	comparer caddyauth.Comparer
	fake     []byte // a hash of this class which no password matches
	threads  int64  // goroutines that one check keeps busy
}

// enabled reports whether anybody has to log in.
func (a *Auth) enabled() bool { return a != nil && len(a.Basic) > 0 }

// provision checks the user list and prepares it for authenticate. What the
// user wrote stays as it is.
func (a *Auth) provision(ctx caddy.Context, logger *zap.Logger) error {
	if plaintext.HasControl(a.Realm) {
		return fmt.Errorf("realm '%s' contains control characters", plaintext.Escaped(a.Realm))
	}
	if a.Session != nil {
		if sep := a.Session.Separator; sep == "" || strings.Contains(sep, ":") || plaintext.HasControl(sep) {
			return fmt.Errorf("session.separator '%s' is empty or has a colon or control character", plaintext.Escaped(sep))
		}
	}
	a.logger = logger
	if a.verifier == nil {
		a.verifier = sharedVerifier
	}
	a.users = make(map[string]*credential, len(a.Basic))
	loader := &classLoader{ctx: ctx, verifier: a.verifier, classes: make(map[string]*hashClass)}
	repl := caddy.NewReplacer()
	var plain []string
	for i, u := range a.Basic {
		// ReplaceKnown leaves the braces of a password alone.
		name, password := repl.ReplaceKnown(u.Username, ""), repl.ReplaceKnown(u.Password, "")
		if err := checkUsername(i, name); err != nil {
			return err
		}
		if _, ok := a.users[name]; ok {
			return fmt.Errorf("basic_auth user '%s' is defined twice", name)
		}
		if password == "" && u.Password != "" {
			return fmt.Errorf("basic_auth user '%s': nothing is left of the password after its placeholders are replaced", name)
		}
		cred, err := loader.credential(name, password)
		if err != nil {
			return fmt.Errorf("basic_auth user '%s': %w", name, err)
		}
		if cred.class == nil {
			plain = append(plain, name)
		}
		a.users[name] = cred
	}
	a.classes = loader.ordered
	_, _ = rand.Read(a.stranger.sum[:])
	if len(a.classes) > 0 {
		a.stranger.hash = a.classes[0].fake
	}
	if len(plain) > 0 {
		logger.Warn("basic_auth passwords are plain text; replace them with the output of 'caddy hash-password'",
			zap.Strings("users", plain))
	}
	return nil
}

// challenge returns the value of Proxy-Authenticate (RFC 7617 §2.1).
func (a *Auth) challenge() string {
	realm := a.Realm
	if realm == "" {
		realm = defaultRealm
	}
	return `Basic realm="` + realmEscaper.Replace(realm) + `", charset="UTF-8"`
}

// realmEscaper escapes what a quoted-string cannot hold (RFC 9110 §5.6.4).
var realmEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// login returns the user that the Proxy-Authorization field of header proves, and
// the session that the client has named, or why there is none. They are returned
// only on success, so that nothing of a failed attempt can reach a log. All
// failures of well-formed credentials cost the same work, whoever they are for.
// The error is about the work: the client has left, or too many are waiting.
func (a *Auth) login(ctx context.Context, client string, header http.Header) (user, session string, failed authFailure, err error) {
	name, password, failed := parseProxyAuthorization(header)
	if failed != "" {
		return "", "", failed, nil
	}
	cred, name, session := a.find(name)
	known := cred != nil
	if !known {
		cred = &a.stranger
	}
	// A stranger cannot match, but known decides all the same: an open door
	// must not hang on the quality of random bytes.
	switch matches, err := a.matches(ctx, client, cred, name, password); {
	case err != nil:
		return "", "", "", err
	case !known:
		return "", "", authUnknownUser, nil
	case !matches:
		return "", "", authBadPassword, nil
	}
	return cred.name, session, "", nil
}

// find returns the user whose name the client has sent, whole or with a session
// behind it, nil for a stranger, and the name without the session.
func (a *Auth) find(name []byte) (cred *credential, user []byte, session string) {
	if cred, ok := a.users[string(name)]; ok || a.Session == nil {
		return cred, name, ""
	}
	sep := []byte(a.Session.Separator)
	for end := len(name); ; {
		i := bytes.LastIndex(name[:end], sep)
		if i < 0 {
			return nil, name, ""
		}
		if cred, ok := a.users[string(name[:i])]; ok {
			return cred, name[:i], string(name[i+len(sep):])
		}
		end = i + len(sep) - 1 // the one before it may overlap it
	}
}

// matches reports whether password is that of cred. user is the name that the
// client sent: a stranger has none of its own.
func (a *Auth) matches(ctx context.Context, client string, cred *credential, user, password []byte) (bool, error) {
	sum := sumCredential(user, cred.hash, password)
	if subtle.ConstantTimeCompare(sum[:], cred.sum[:]) == 1 || cred.known.is(&sum) {
		return true, nil
	}
	if len(a.classes) == 0 {
		return false, nil // plain passwords only: the sum is all the work there is
	}
	return a.verifier.verify(ctx, cred.known, sum, func(ctx context.Context) (bool, error) {
		return a.compareSlowly(ctx, client, cred, password)
	})
}

// compareSlowly checks password against the hash of cred. When that fails, it
// goes on to check against a fake of every other class, so that all failures
// take one check of each class: with a fake for strangers alone, users with
// cheaper hashes, or with plain passwords, would be told from them by time.
func (a *Auth) compareSlowly(ctx context.Context, client string, cred *credential, password []byte) (bool, error) {
	if cred.class != nil {
		if same, err := a.compare(ctx, client, cred.class, cred, cred.hash, password); same || err != nil {
			return same, err
		}
	}
	for _, class := range a.classes {
		if class != cred.class {
			if _, err := a.compare(ctx, client, class, cred, class.fake, password); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (a *Auth) compare(ctx context.Context, client string, class *hashClass, cred *credential, hashed, password []byte) (bool, error) {
	release, err := a.verifier.acquire(ctx, client, class.threads)
	if err != nil {
		return false, err
	}
	defer release()
	same, err := class.comparer.Compare(hashed, password)
	if err != nil {
		// The error may quote the hash; its user is enough to look for it.
		a.logger.Error("password hash cannot be compared", zap.String("user", cred.name))
		return false, nil
	}
	return same, nil
}

// parseProxyAuthorization returns the user and the password in header.
// RFC 7617 §2: the password may contain colons, the user may not.
func parseProxyAuthorization(header http.Header) (user, password []byte, failure authFailure) {
	values := header["Proxy-Authorization"]
	if len(values) == 0 {
		return nil, nil, authMissing
	}
	if len(values) > 1 {
		// Whoever comes before or after us may choose the other one.
		return nil, nil, authMalformed
	}
	scheme, encoded, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return nil, nil, authMalformed
	}
	encoded = strings.Trim(encoded, " ")
	if len(encoded) > base64.StdEncoding.EncodedLen(maxUsernameBytes+1+maxPasswordBytes) {
		return nil, nil, authMalformed
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, nil, authMalformed
	}
	colon := bytes.IndexByte(decoded, ':')
	if colon < 0 || colon > maxUsernameBytes || len(decoded)-colon-1 > maxPasswordBytes {
		return nil, nil, authMalformed
	}
	return decoded[:colon], decoded[colon+1:], ""
}

func checkUsername(i int, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("basic_auth user number %d has no name", i+1)
	case plaintext.HasControl(name):
		return fmt.Errorf("basic_auth user '%s': a user name cannot contain control characters", plaintext.Escaped(name))
	case strings.Contains(name, ":"):
		return fmt.Errorf("basic_auth user '%s': a user name cannot contain ':'", name)
	case len(name) > maxUsernameBytes:
		return fmt.Errorf("basic_auth user '%s': a user name cannot be longer than %d bytes", name, maxUsernameBytes)
	}
	return nil
}
