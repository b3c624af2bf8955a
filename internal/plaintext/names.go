package plaintext

// IsName reports whether s can name a handler. A name is never like a place: that
// has a '#'.
func IsName(s string) bool {
	for _, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// IsServerName reports whether s can stand as a pseudonym in Via and as an
// sf-token in Proxy-Status (RFC 8941 §3.3.4 begins with a letter).
func IsServerName(s string) bool {
	for i := range len(s) {
		letter := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		digit := '0' <= s[i] && s[i] <= '9'
		if !letter && (i == 0 || !digit && s[i] != '-' && s[i] != '.' && s[i] != '_') {
			return false
		}
	}
	return s != ""
}
