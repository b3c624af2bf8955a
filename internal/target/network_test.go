package target

import (
	"net/netip"
	"testing"
)

func TestUnmapped(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "2001:db8::/32": "2001:db8::/32", "::ffff:198.51.100.0/120": "198.51.100.0/24",
		"::ffff:192.0.2.1/128": "192.0.2.1/32", "::ffff:0:0/96": "0.0.0.0/0", "::ffff:0:0/95": "", "::/0": "::/0",
	} {
		got, ok := Unmapped(netip.MustParsePrefix(text))
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %s, %v", text, got, ok)
		}
	}
}
