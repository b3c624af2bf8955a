package plaintext

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/caddy-egress/egress/internal/h1"
)

// HasControl reports whether s has a control character.
func HasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// Escaped returns s with its control characters escaped.
func Escaped(s string) string {
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// Printable returns s without what would garble a terminal or a log.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// Short is Printable of the beginning of a text, which may be long: of so many bytes, with an
// ellipsis where something is left out.
func Short(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return Printable(s)
}

// IsToken reports whether s is a token (RFC 9110 §5.6.2): Go does not check
// methods on HTTP/2.
func IsToken(s string) bool { return h1.ValidField(s, "") }
