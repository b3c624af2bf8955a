package core

import (
	"strconv"

	"github.com/caddy-egress/egress/internal/target"
)

// AppendHost writes the authority, without a port that is the scheme's own.
func (t *Request) AppendHost(b []byte) []byte {
	if t.HTTPS && t.Target.Port == 443 || !t.HTTPS && t.Target.Port == 80 {
		return appendHostText(b, t.Target)
	}
	return t.AppendAuthority(b)
}

// AppendAuthority writes the destination as host:port.
func (t *Request) AppendAuthority(b []byte) []byte {
	b = appendHostText(b, t.Target)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(t.Target.Port), 10)
}

func appendHostText(b []byte, dest target.Target) []byte {
	if dest.IsAddr() && dest.Addr.Is6() {
		b = append(b, '[')
		b = append(b, dest.Host...)
		return append(b, ']')
	}
	return append(b, dest.Host...)
}
