package upstreams

import (
	"errors"

	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains which settings of an upstream go together, and with its URL.

// settingError is the error of a setting by the name that it has in JSON.
type settingError struct {
	setting string
	reason  error
}

func (e *settingError) Error() string { return e.setting + ": " + e.reason.Error() }
func (e *settingError) Unwrap() error { return e.reason }

// checkSuits refuses settings that the upstream cannot have for its URL.
func (u *Upstream) checkSuits(addr upstream.Address) error {
	for _, c := range [...]struct {
		wrong   bool
		setting string
		reason  string
	}{
		{addr.User != nil && u.Credentials != nil, "credentials", "they stand in the URL as well"},
		{addr.Scheme != upstream.HTTPS && u.TLS != nil, "tls", "the scheme is not https"},
		{isSOCKS(addr) && len(u.Header) > 0, "header", "SOCKS has no header fields"},
		{addr.Socket != "" && (len(u.LocalAddresses) > 0 || u.LocalAddressPick != ""), "local_addresses", "a unix socket has none"},
		{addr.Socket != "" && u.Interface != "", "interface", "a unix socket has none"},
		{addr.Socket != "" && u.PreferIP != "", "prefer_ip", "a unix socket has no IP address"},
	} {
		if c.wrong {
			return &settingError{c.setting, errors.New(c.reason)}
		}
	}
	return nil
}

// checkShared refuses connections for several clients where each names one.
func (u *Upstream) checkShared() error {
	switch {
	case u.ProxyProtocol == "":
		return nil
	case u.Standby > 0:
		return &settingError{"standby", errors.New("a connection that is dialed ahead cannot carry the address of its client (proxy_protocol)")}
	case u.MaxTunnelsPerConn > 1:
		return &settingError{"max_tunnels_per_conn", errors.New("with proxy_protocol a connection belongs to one client")}
	}
	return nil
}

func isSOCKS(addr upstream.Address) bool {
	return addr.Scheme == upstream.SOCKS5 || addr.Scheme == upstream.SOCKS5H
}

// urlLogin is the login that stands in a URL, nil if there is none.
func urlLogin(addr upstream.Address) *Credentials {
	if addr.User == nil {
		return nil
	}
	password, _ := addr.User.Password()
	return &Credentials{addr.User.Username(), password}
}
