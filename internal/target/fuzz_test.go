package target

import (
	"encoding/binary"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var authoritySeeds = []string{
	"example.com:443", "EXAMPLE.com.:0443", "127.1:80", "2130706433:1", "0x7f.1:80", "0177.0.0.1:80",
	"[::1]:443", "[::ffff:7f00:1]:65535", "[64:ff9b::1.2.3.4]:1", "[fe80::1%25eth0]:80",
	"１２７。0．0｡1:80", "bücher.example:443", "xn--bcher-kva.example:443", "host.xn--:80", "xn--127-:80",
	"user@host:80", "a/b:80", "::1:80", "a:80:80", "h:", "h", ":80", "\x00:80", "a\u00adb:80", "ß:1", "%31:80",
}

func FuzzParseAuthority(f *testing.F) {
	for _, s := range authoritySeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseAuthority(s)
		if err != nil {
			checkReason(t, err)
			return
		}
		checkCanonical(t, got)
		host := s[:strings.LastIndexByte(s, ':')]
		checkOracles(t, host, got)
	})
}

func FuzzParseHostPort(f *testing.F) {
	for _, s := range authoritySeeds {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, s string, defaultPort uint16) {
		got, err := ParseHostPort(s, defaultPort)
		if err != nil {
			checkReason(t, err)
			if h, _, err := ParseHost(s); err == nil && defaultPort != 0 && !strings.Contains(s, ":") {
				t.Fatalf("%q is the host %q alone but not with a default port", s, h)
			}
			return
		}
		checkCanonical(t, got)
		host := s
		if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
			host = s[:i]
		}
		checkOracles(t, host, got)
		if h, a, err := ParseHost(host); err != nil || h != got.Host || a != got.Addr {
			t.Fatalf("ParseHost(%q) = %q, %v, %v; want as in %v", host, h, a, err, got)
		}
	})
}

// checkReason makes sure that a reason may be logged and sent as it is.
func checkReason(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Reason == "" {
		t.Fatalf("error %#v", err)
	}
	for _, r := range e.Reason {
		if r < ' ' || r > '~' {
			t.Fatalf("reason %q", e.Reason)
		}
	}
}

func checkCanonical(t *testing.T, got Target) {
	t.Helper()
	if again, err := ParseAuthority(got.String()); err != nil || again != got {
		t.Fatalf("%q parses to %v, %v; want %#v", got.String(), again, err, got)
	}
	if got.Port == 0 || got.Host == "" || strings.HasSuffix(got.Host, ".") {
		t.Fatalf("%#v", got)
	}
	for _, r := range got.Host {
		if r > unicode.MaxASCII || r <= ' ' || unicode.IsUpper(r) || unicode.IsControl(r) ||
			strings.ContainsRune(`@/\?#%[]`, r) || r == ':' && !got.IsAddr() {
			t.Fatalf("host %q", got.Host)
		}
	}
	if got.IsAddr() && (got.Addr.Is4In6() || got.Addr.Zone() != "" || got.Host != got.Addr.String()) {
		t.Fatalf("%#v", got)
	}
	if !got.IsAddr() && (len(got.Host) > 253 || strings.Contains("."+got.Host+".", "..")) {
		t.Fatalf("%#v", got)
	}
}

// checkOracles makes sure that nothing which another parser takes as an address
// is a name here, or another address.
func checkOracles(t *testing.T, raw string, got Target) {
	t.Helper()
	for _, host := range []string{raw, got.Host} {
		bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if a, err := netip.ParseAddr(bare); err == nil && got.Addr != a.Unmap() {
			t.Fatalf("netip takes %q as %v; got %#v", host, a, got)
		}
		for _, h := range []string{host, strings.TrimSuffix(host, ".")} {
			if a, ok := inetAton(h); ok && got.Addr != a {
				t.Fatalf("inet_aton takes %q as %v; got %#v", h, a, got)
			}
		}
	}
}

var inetAtonForm = regexp.MustCompile(`(?i)^(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}$`)

// inetAton is an oracle written from the C function's manual page, with nothing
// in common with parseIPv4.
func inetAton(s string) (netip.Addr, bool) {
	if !inetAtonForm.MatchString(s) {
		return netip.Addr{}, false
	}
	parts := strings.Split(s, ".")
	limits := map[int][]uint64{
		1: {1 << 32}, 2: {256, 1 << 24}, 3: {256, 256, 1 << 16}, 4: {256, 256, 256, 256},
	}[len(parts)]
	shifts := []int{24, 16, 8}
	var sum uint64
	for i, p := range parts {
		// Base 0 is strtoul's: 0x, 0 and decimal.
		n, err := strconv.ParseUint(p, 0, 64)
		if err != nil || n >= limits[i] {
			return netip.Addr{}, false
		}
		if i == len(parts)-1 {
			sum += n
		} else {
			sum += n << shifts[i]
		}
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(sum))
	return netip.AddrFrom4(b), true
}

func TestInetAtonOracle(t *testing.T) {
	for in, want := range map[string]string{
		"127.1": "127.0.0.1", "0x7f000001": "127.0.0.1", "010.1": "8.0.0.1", "1.2.3": "1.2.0.3",
	} {
		if a, ok := inetAton(in); !ok || a.String() != want {
			t.Errorf("inetAton(%s) = %v, %t", in, a, ok)
		}
	}
	for _, in := range []string{"", "a", "08", "1.2.3.4.5", "256.1", "0b1", "1_0", "0o7"} {
		if a, ok := inetAton(in); ok {
			t.Errorf("inetAton(%s) = %v", in, a)
		}
	}
}
