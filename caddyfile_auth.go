package egress

import (
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the Caddyfile about who may use the proxy.

func (h *Handler) auth() *Auth {
	if h.Auth == nil {
		h.Auth = new(Auth)
	}
	return h.Auth
}

func (h *Handler) unmarshalBasicAuth(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if ahead := *d; ahead.NextBlock(d.Nesting()) {
		return d.Err("basic_auth takes no block: write basic_auth <user> <password|hash>, one user a line")
	}
	if len(args) != 2 {
		return d.Errf("basic_auth wants a user and a password or hash, got %d arguments", len(args))
	}
	user := BasicUser{Username: args[0], Password: args[1]}
	if err := h.auth().checkUser(user); err != nil {
		return d.Errf("basic_auth user '%s': %v", plaintext.Escaped(user.Username), err)
	}
	h.auth().Basic = append(h.auth().Basic, user)
	return words.At(d, h.checkAuth())
}

func (h *Handler) unmarshalUnauthenticated(d *caddyfile.Dispenser) error {
	if err := words.Flag(d, &h.AllowUnauthenticated); err != nil {
		return err
	}
	return words.At(d, h.checkAuth())
}

func (h *Handler) unmarshalSession(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 || args[0] != "user_suffix" || args[1] == "" {
		return d.Err("session_from wants user_suffix and a separator")
	}
	if err := checkSeparator(args[1]); err != nil {
		return d.Errf("session_from: the separator '%s' %v", plaintext.Escaped(args[1]), err)
	}
	h.auth().Session = &Session{Separator: args[1]}
	return nil
}

// checkUser refuses a user of the Caddyfile, as far as placeholders let it be seen.
func (a *Auth) checkUser(user BasicUser) error {
	if !words.HasPlaceholder(user.Username) {
		if err := auth.CheckName(user.Username); err != nil {
			return err
		}
		if slices.ContainsFunc(a.Basic, func(u BasicUser) bool { return u.Username == user.Username }) {
			return errors.New("it is defined twice")
		}
	}
	if words.HasPlaceholder(user.Password) {
		return nil
	}
	return auth.CheckPassword(user.Password)
}
