package egress

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/settings"
)

// This file contains the settings of who may use the proxy.

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

	users *auth.Users
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

const defaultRealm = "Caddy Egress"

// enabled reports whether anybody has to log in.
func (a *Auth) enabled() bool { return a != nil && len(a.Basic) > 0 }

// provision checks the user list and prepares it for logins. What the user wrote
// stays as it is.
func (a *Auth) provision(ctx caddy.Context, logger *zap.Logger) error {
	if err := checkRealm(a.Realm); err != nil {
		return fmt.Errorf("realm '%s' %w", plaintext.Escaped(a.Realm), err)
	}
	cfg := auth.Config{
		Hashes: func(algorithm string) (auth.Comparer, error) { return loadHash(ctx, algorithm) },
		HungUp: hungUp,
		Logger: logger,
	}
	if a.Session != nil {
		cfg.Separator = a.Session.Separator
		if err := checkSeparator(cfg.Separator); err != nil {
			return fmt.Errorf("session.separator '%s' %w", plaintext.Escaped(cfg.Separator), err)
		}
	}
	repl := caddy.NewReplacer()
	for _, u := range a.Basic {
		// ReplaceKnown leaves the braces of a password alone.
		name := repl.ReplaceKnown(u.Username, "")
		if name == "" && u.Username != "" {
			return fmt.Errorf("basic_auth: a user name is %w", settings.Emptied(u.Username))
		}
		cfg.Users = append(cfg.Users, auth.User{Name: name, Password: repl.ReplaceKnown(u.Password, "")})
	}
	users, err := auth.New(cfg)
	if empty, ok := errors.AsType[*auth.EmptyPasswordError](err); ok && a.Basic[empty.Index].Password != "" {
		return fmt.Errorf("basic_auth user '%s': the password is %w", empty.Name, settings.Emptied(a.Basic[empty.Index].Password))
	}
	if err != nil {
		return err
	}
	a.users = users
	if plain := users.Plain(); len(plain) > 0 {
		logger.Warn("basic_auth passwords are plain text; replace them with the output of 'caddy hash-password'",
			zap.Strings("users", plain))
	}
	return nil
}

func checkRealm(realm string) error {
	if plaintext.HasControl(realm) {
		return errors.New("contains control characters")
	}
	return nil
}

func checkSeparator(sep string) error {
	if sep == "" || strings.Contains(sep, ":") || plaintext.HasControl(sep) {
		return errors.New("is empty or has a colon or control character")
	}
	return nil
}

// loadHash loads the module that checks hashes of an algorithm.
func loadHash(ctx caddy.Context, algorithm string) (auth.Comparer, error) {
	mod, err := ctx.LoadModuleByID("http.authentication.hashes."+algorithm, nil)
	if err != nil {
		return nil, fmt.Errorf("loading password hash module: %w", err)
	}
	comparer, ok := mod.(caddyauth.Comparer)
	if !ok {
		return nil, fmt.Errorf("password hash module %s compares nothing", algorithm)
	}
	return comparer, nil
}

// hungUp returns what reports whether the client of a request has closed its
// connection. It takes nothing from that, and reports false where it cannot tell.
func hungUp(ctx context.Context) func() bool {
	conn := origin.ClientOf(ctx)
	return func() bool { return conn != nil && layers.HungUp(conn) }
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
