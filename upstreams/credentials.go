package upstreams

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/settings"
)

// Credentials are a user and a password. Global placeholders in them are
// replaced at provision; nothing left after that is an error.
type Credentials struct {
	// Username, without a colon.
	Username string `json:"username" placeholders:"own"`
	// Password may be anything.
	Password string `json:"password" placeholders:"own"`
}

// resolve replaces the placeholders.
func (c *Credentials) resolve(repl *caddy.Replacer) (*Credentials, error) {
	out := &Credentials{repl.ReplaceKnown(c.Username, ""), repl.ReplaceKnown(c.Password, "")}
	if out.Username == "" && c.Username != "" {
		return nil, fmt.Errorf("the user name is %w", settings.Emptied(c.Username))
	}
	if err := out.check(); err != nil {
		return nil, err
	}
	if out.Password == "" && c.Password != "" {
		return nil, fmt.Errorf("the password is %w", settings.Emptied(c.Password))
	}
	return out, nil
}

func (c *Credentials) check() error {
	switch {
	case c.Username == "":
		return errors.New("the user name is empty")
	case strings.Contains(c.Username, ":"):
		return errors.New("a user name cannot contain ':'")
	case plaintext.HasControl(c.Username), plaintext.HasControl(c.Password):
		return errors.New("user name or password contain control characters")
	case len(c.Username) > 255, len(c.Password) > 255:
		return errors.New("user name or password are longer than 255 bytes")
	}
	return nil
}
