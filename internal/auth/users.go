package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// User is one user name with its password.
type User struct {
	// Name is at most 256 bytes, without colons (RFC 7617 §2) and control characters.
	// No two users have the same.
	Name string

	// Password is the password, of at most 1,024 bytes, or its hash: bcrypt where it
	// begins with `$2`, argon2id where it begins with `$argon2id$`.
	Password string
}

// Config is who may log in, and how that is checked.
type Config struct {
	// Users are those that may log in. Two of one name are an error.
	Users []User

	// Separator stands between the name of a user and that of a session. Default: none,
	// and no sessions.
	Separator string

	// Hashes returns what checks hashes of an algorithm, `bcrypt` or `argon2id`. It is
	// needed where a user has a hash.
	Hashes func(algorithm string) (Comparer, error)

	// HungUp returns what reports whether the client has closed its connection. It gets
	// the context of the login. Default: that is never seen.
	HungUp func(ctx context.Context) func() bool

	// Logger is told of hashes that cannot be compared.
	Logger *zap.Logger
}

// Users are all who may log in. A nil Users knows nobody.
type Users struct {
	users     map[string]*credential
	separator string
	stranger  credential   // takes the place of a user we do not know
	classes   []*hashClass // every distinct amount of slow work in users
	plain     []string     // names of those with a plain password
	verifier  *verifier
	hungUp    func(context.Context) func() bool
	logger    *zap.Logger
}

// EmptyPasswordError is the error of a user who has no password.
type EmptyPasswordError struct {
	Index int // of the user in Config.Users
	Name  string
}

func (e *EmptyPasswordError) Error() string {
	return fmt.Sprintf("basic_auth user '%s': the password is empty", e.Name)
}

// New checks users and prepares them for Login. Its errors never quote a password.
func New(cfg Config) (*Users, error) { return newUsers(cfg, sharedVerifier) }

func newUsers(cfg Config, v *verifier) (*Users, error) {
	u := &Users{
		users:     make(map[string]*credential, len(cfg.Users)),
		separator: cfg.Separator,
		verifier:  v,
		hungUp:    cfg.HungUp,
		logger:    cfg.Logger,
	}
	if u.hungUp == nil {
		u.hungUp = func(context.Context) func() bool { return func() bool { return false } }
	}
	loader := &classLoader{hashes: cfg.Hashes, verifier: v, classes: make(map[string]*hashClass)}
	for i, user := range cfg.Users {
		if user.Name == "" {
			return nil, fmt.Errorf("basic_auth user number %d has no name", i+1)
		}
		if err := CheckName(user.Name); err != nil {
			return nil, fmt.Errorf("basic_auth user '%s': %w", plaintext.Escaped(user.Name), err)
		}
		if _, ok := u.users[user.Name]; ok {
			return nil, fmt.Errorf("basic_auth user '%s' is defined twice", user.Name)
		}
		if user.Password == "" {
			return nil, &EmptyPasswordError{i, user.Name}
		}
		if err := CheckPassword(user.Password); err != nil {
			return nil, fmt.Errorf("basic_auth user '%s': %w", user.Name, err)
		}
		cred, err := loader.credential(user.Name, user.Password)
		if err != nil {
			return nil, fmt.Errorf("basic_auth user '%s': %w", user.Name, err)
		}
		if cred.class == nil {
			u.plain = append(u.plain, user.Name)
		}
		cred.id = stored(cred)
		u.users[user.Name] = cred
	}
	u.classes = loader.ordered
	_, _ = rand.Read(u.stranger.sum[:])
	if len(u.classes) > 0 {
		u.stranger.hash = u.classes[0].fake
	}
	return u, nil
}

// CheckName refuses what cannot be the name of a user.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the user name is empty")
	case plaintext.HasControl(name):
		return errors.New("a user name cannot contain control characters")
	case strings.Contains(name, ":"):
		return errors.New("a user name cannot contain ':'")
	case len(name) > maxUsernameBytes:
		return fmt.Errorf("a user name cannot be longer than %d bytes", maxUsernameBytes)
	}
	return nil
}

// Plain returns the names of the users whose passwords are plain text, in their order.
func (u *Users) Plain() []string { return u.plain }

// Names are the names of the users, in their order.
func (u *Users) Names() []string { return slices.Sorted(maps.Keys(u.users)) }

// Login returns the user that the Proxy-Authorization field of header proves, and
// the session that the client has named, or why there is none. They are returned
// only on success, so that nothing of a failed attempt can be taken for them (what may be
// told of it: see Tried). All
// failures of well-formed credentials cost the same work, whoever they are for.
// The error is about the work: the client has left, or too many are waiting. Clients,
// which are IP addresses, take turns at it.
func (u *Users) Login(ctx context.Context, client string, header http.Header) (user, session string, failed Failure, err error) {
	name, password, failed := parse(header)
	if failed != "" {
		return "", "", failed, nil
	}
	if u == nil {
		return "", "", UnknownUser, nil
	}
	cred, name, session := u.find(name)
	known := cred != nil
	if !known {
		cred = &u.stranger
	}
	// A stranger cannot match, but known decides all the same: an open door
	// must not hang on the quality of random bytes.
	switch matches, err := u.matches(ctx, client, cred, name, password); {
	case err != nil:
		return "", "", "", err
	case !known:
		return "", "", UnknownUser, nil
	case !matches:
		return "", "", BadPassword, nil
	}
	return cred.name, session, "", nil
}

// maxTried is how much of a name is told that is nobody's, or whose password was wrong.
const maxTried = 64

// Tried is the name, for people, that a client has tried to log in with: what is printable of
// its beginning; "" where it has named none. It is not to be believed.
func Tried(header http.Header) string {
	name, _, failed := parse(header)
	if failed != "" {
		return ""
	}
	return plaintext.Short(string(name), maxTried)
}

// Find returns the user whose name a client sends, whole or with a session behind it,
// and that session. ok is false where there is no such user.
func (u *Users) Find(name string) (user, session string, ok bool) {
	cred, _, session := u.find([]byte(name))
	if cred == nil {
		return "", "", false
	}
	return cred.name, session, true
}

// Stored is the credential of a user by that name; nil for none.
func (u *Users) Stored(name string) *Stored {
	if u == nil || u.users[name] == nil {
		return nil
	}
	return u.users[name].id
}

// Knows reports whether a user has the same credential here.
func (u *Users) Knows(s *Stored) bool {
	now := u.Stored(s.name)
	return now != nil && (now == s || now.sum == s.sum)
}

// find returns the user whose name the client has sent, whole or with a session
// behind it, nil for a stranger, and the name without the session.
func (u *Users) find(name []byte) (cred *credential, user []byte, session string) {
	if u == nil {
		return nil, name, ""
	}
	if cred, ok := u.users[string(name)]; ok || u.separator == "" {
		return cred, name, ""
	}
	sep := []byte(u.separator)
	for end := len(name); ; {
		i := bytes.LastIndex(name[:end], sep)
		if i < 0 {
			return nil, name, ""
		}
		if cred, ok := u.users[string(name[:i])]; ok {
			return cred, name[:i], string(name[i+len(sep):])
		}
		end = i + len(sep) - 1 // the one before it may overlap it
	}
}
