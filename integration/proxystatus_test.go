package integration

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	sfToken = regexp.MustCompile(`^[A-Za-z*][!#$%&'*+\-.^_` + "`" + `|~0-9A-Za-z:/]*`)
	sfKey   = regexp.MustCompile(`^[a-z*][a-z0-9_.*-]*`)
	sfStr   = regexp.MustCompile(`^"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"`)
	sfNum   = regexp.MustCompile(`^-?[0-9]{1,15}`)
)

// parseProxyStatus reads a Proxy-Status field with one member (RFC 9209 §2),
// strictly as RFC 8941 wants it, and returns its name and error type.
func parseProxyStatus(s string) (name, typ string, err error) {
	if name = sfToken.FindString(s); name == "" {
		if name = sfStr.FindString(s); name == "" {
			return "", "", errors.New("no name")
		}
	}
	s = s[len(name):]
	name = strings.Trim(name, `"`)
	for s != "" {
		if s[0] != ';' {
			return "", "", fmt.Errorf("unexpected %q", s)
		}
		s = strings.TrimLeft(s[1:], " ")
		key := sfKey.FindString(s)
		if key == "" {
			return "", "", fmt.Errorf("no parameter name in %q", s)
		}
		s = s[len(key):]
		value := ""
		if strings.HasPrefix(s, "=") {
			s = s[1:]
			for _, kind := range []*regexp.Regexp{sfToken, sfStr, sfNum} {
				if value = kind.FindString(s); value != "" {
					break
				}
			}
			if value == "" {
				return "", "", fmt.Errorf("no value for %s in %q", key, s)
			}
			s = s[len(value):]
		}
		if key == "error" {
			if sfToken.FindString(value) != value {
				return "", "", fmt.Errorf("error type %q is not a token", value)
			}
			typ = value
		}
	}
	return name, typ, nil
}
