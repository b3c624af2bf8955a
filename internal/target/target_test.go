package target

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// name and address cases of ParseHost; the two authority parsers take the same
// hosts, see TestParseHostPortTakesEveryHost.
var hostTests = []struct {
	in   string
	want string // canonical host; empty when refused
	addr bool
	err  string // reason, when refused
}{
	// Names.
	{in: "example.com", want: "example.com"},
	{in: "EXAMPLE.Com", want: "example.com"},
	{in: "example.com.", want: "example.com"},
	{in: "localhost.", want: "localhost"},
	{in: "LOCALHOST", want: "localhost"},
	{in: "a", want: "a"},
	{in: "_dmarc.example.com", want: "_dmarc.example.com"},
	{in: "my_host", want: "my_host"},
	{in: "r3---sn-apo3qvuoxuxbt-j5pe.googlevideo.com", want: "r3---sn-apo3qvuoxuxbt-j5pe.googlevideo.com"},
	{in: "-a-.example", want: "-a-.example"},
	{in: "ab--cd.example", want: "ab--cd.example"},
	{in: "1.2.3.4.example", want: "1.2.3.4.example"},
	{in: "127.0.0.1.nip.io", want: "127.0.0.1.nip.io"},
	{in: "1e100.net", want: "1e100.net"},
	{in: "3com", want: "3com"},
	{in: "0xg", want: "0xg"},
	{in: "1.2.3.4a", want: "1.2.3.4a"},
	{in: "127.0.0.-1", want: "127.0.0.-1"},

	// Internationalized names and the mappings that hide others.
	{in: "bücher.example", want: "xn--bcher-kva.example"},
	{in: "BÜCHER.example", want: "xn--bcher-kva.example"},
	{in: "bu\u0308cher.example", want: "xn--bcher-kva.example"},
	{in: "xn--bcher-kva.example", want: "xn--bcher-kva.example"},
	{in: "XN--BCHER-KVA.example", want: "xn--bcher-kva.example"},
	{in: "faß.example", want: "xn--fa-hia.example"},
	{in: "例え。テスト", want: "xn--r8jz45g.xn--zckzah"},
	{in: "ｅｘａｍｐｌｅ．ｃｏｍ", want: "example.com"},
	{in: "example。com｡", want: "example.com"},
	{in: "ⓛocalhost", want: "localhost"},
	{in: "local\u00adhost", want: "localhost"},
	{in: "\u212aelvin.example", want: "kelvin.example"},
	{in: "i❤.ws", want: "xn--i-7iq.ws"},
	{in: "bücher_x.example", want: "xn--bcher_x-n2a.example"},
	{in: "xn--", err: "the host is empty"},
	{in: "localhost.xn--", err: "not a valid internationalized host name"},
	{in: "127.0.0.1.xn--", err: "not a valid internationalized host name"},
	{in: "localhost.ｘｎ－－", err: "not a valid internationalized host name"},
	{in: "xn--.localhost", err: "the host has an empty label"},
	{in: "xn--localhost-", err: "not a valid internationalized host name"},
	{in: "xn--127-", err: "not a valid internationalized host name"},
	{in: "xn--a.example", err: "not a valid internationalized host name"},
	{in: "xn--bcher-kvaé", err: "not a valid internationalized host name"},
	{in: "a\u200db.example", err: "not a valid internationalized host name"},
	{in: "\u0301a.example", err: "not a valid internationalized host name"},
	{in: "\u202eexample.com", err: "not a valid internationalized host name"},
	{in: "a\u05d0.example", err: "not a valid internationalized host name"},
	{in: "a\u0080b", err: "not a valid internationalized host name"},
	{in: "\xff.example", err: "the host is not valid UTF-8"},
	{in: "\u00ad", err: "the host is empty"},
	{in: "a℀b.example", err: "the host has the character '/'"},
	{in: "user＠host", err: "the host has the character '@'"},
	{in: "host：80", err: "the host has the character ':'"},
	{in: "a％2eb", err: "the host has the character '%'"},
	{in: "a\u00a0b", err: "the host has a character that no host name has"},

	// IPv4 in every spelling.
	{in: "192.0.2.1", want: "192.0.2.1", addr: true},
	{in: "127.0.0.1.", want: "127.0.0.1", addr: true},
	{in: "127.1", want: "127.0.0.1", addr: true},
	{in: "127.1.", want: "127.0.0.1", addr: true},
	{in: "127.0.1", want: "127.0.0.1", addr: true},
	{in: "10.258", want: "10.0.1.2", addr: true},
	{in: "10.1.65535", want: "10.1.255.255", addr: true},
	{in: "2130706433", want: "127.0.0.1", addr: true},
	{in: "4294967295", want: "255.255.255.255", addr: true},
	{in: "0", want: "0.0.0.0", addr: true},
	{in: "0x0", want: "0.0.0.0", addr: true},
	{in: "0x", want: "0.0.0.0", addr: true},
	{in: "0.0x", want: "0.0.0.0", addr: true},
	{in: "1", want: "0.0.0.1", addr: true},
	{in: "0x7f.1", want: "127.0.0.1", addr: true},
	{in: "0X7F.1", want: "127.0.0.1", addr: true},
	{in: "0x7f000001", want: "127.0.0.1", addr: true},
	{in: "0x7F.0X0.0.0x1", want: "127.0.0.1", addr: true},
	{in: "0x0000000000000000007f.1", want: "127.0.0.1", addr: true},
	{in: "0177.0.0.1", want: "127.0.0.1", addr: true},
	{in: "0177.0.0.01", want: "127.0.0.1", addr: true},
	{in: "017700000001", want: "127.0.0.1", addr: true},
	{in: "000000000000000000000177.1", want: "127.0.0.1", addr: true},
	{in: "010.8.8.8", want: "8.8.8.8", addr: true},
	{in: "00.0.0.0", want: "0.0.0.0", addr: true},
	{in: "0xa9.254.0251.0376", want: "169.254.169.254", addr: true},
	{in: "１２７.0.0.１", want: "127.0.0.1", addr: true},
	{in: "１２７。０。０。１", want: "127.0.0.1", addr: true},
	{in: "127｡0．0。1。", want: "127.0.0.1", addr: true},
	{in: "２１３０７０６４３３", want: "127.0.0.1", addr: true},
	{in: "①②⑦.1", want: "127.0.0.1", addr: true},
	{in: "𝟏𝟐𝟕.𝟬.𝟶.𝟣", want: "127.0.0.1", addr: true},
	{in: "０ｘ７ｆ.1", want: "127.0.0.1", addr: true},
	{in: "12\u00ad7.0.0.1", want: "127.0.0.1", addr: true},
	{in: "127.0.0.1..", err: "the host has an empty label"},
	{in: "256.0.0.1", err: "it ends in a number but is not an IPv4 address"},
	{in: "1.2.3.256", err: "it ends in a number but is not an IPv4 address"},
	{in: "1.2.65536", err: "it ends in a number but is not an IPv4 address"},
	{in: "1.16777216", err: "it ends in a number but is not an IPv4 address"},
	{in: "4294967296", err: "it ends in a number but is not an IPv4 address"},
	{in: "18446744073709551617", err: "it ends in a number but is not an IPv4 address"},
	{in: "1.2.3.4.0", err: "it ends in a number but is not an IPv4 address"},
	{in: "1.2.3.4.5", err: "it ends in a number but is not an IPv4 address"},
	{in: "08", err: "it ends in a number but is not an IPv4 address"},
	{in: "127.0.0.09", err: "it ends in a number but is not an IPv4 address"},
	{in: "example.1", err: "it ends in a number but is not an IPv4 address"},
	{in: "example.0x1f", err: "it ends in a number but is not an IPv4 address"},
	{in: "1..2", err: "it ends in a number but is not an IPv4 address"},
	{in: ".1", err: "it ends in a number but is not an IPv4 address"},
	{in: "0xg.1", err: "it ends in a number but is not an IPv4 address"},

	// IPv6.
	{in: "[::1]", want: "::1", addr: true},
	{in: "[::]", want: "::", addr: true},
	{in: "[2001:DB8:0:0::1]", want: "2001:db8::1", addr: true},
	{in: "[::ffff:1.2.3.4]", want: "1.2.3.4", addr: true},
	{in: "[::ffff:7f00:1]", want: "127.0.0.1", addr: true},
	{in: "[0:0:0:0:0:FFFF:127.0.0.1]", want: "127.0.0.1", addr: true},
	{in: "[64:ff9b::127.0.0.1]", want: "64:ff9b::7f00:1", addr: true},
	{in: "[1.2.3.4]", err: "not a valid IPv6 address"},
	{in: "[example.com]", err: "not a valid IPv6 address"},
	{in: "[]", err: "not a valid IPv6 address"},
	{in: "[[::1]]", err: "not a valid IPv6 address"},
	{in: "[::1", err: "']' is missing at the end"},
	{in: "::1]", err: "it has a colon but is not an IPv6 address (a port has no place here)"},
	{in: "[::ffff:0177.0.0.1]", err: "not a valid IPv6 address"},
	{in: "[：：1]", err: "not a valid IPv6 address"},
	{in: "[::1%eth0]", err: "it has a percent sign (percent-encoding and zone identifiers are not accepted)"},
	{in: "[fe80::1%25eth0]", err: "it has a percent sign (percent-encoding and zone identifiers are not accepted)"},

	// What no host has.
	{in: "", err: "the host is empty"},
	{in: ".", err: "the host is empty"},
	{in: "..", err: "the host has an empty label"},
	{in: "。", err: "the host is empty"},
	{in: ".example", err: "the host has an empty label"},
	{in: "a..b", err: "the host has an empty label"},
	{in: "example.com..", err: "the host has an empty label"},
	{in: "allowed@denied", err: "it has user information ('@')"},
	{in: "%31%32%37.0.0.1", err: "it has a percent sign (percent-encoding and zone identifiers are not accepted)"},
	{in: "a/b", err: "it has a path, query or fragment ('/')"},
	{in: "a?b", err: "it has a path, query or fragment ('?')"},
	{in: "a#b", err: "it has a path, query or fragment ('#')"},
	{in: `a\b`, err: "it has a backslash"},
	{in: "a b", err: "it has a space"},
	{in: " a", err: "it has a space"},
	{in: "a\tb", err: "it has the control byte 0x09"},
	{in: "a\r\nHost: b", err: "it has the control byte 0x0d"},
	{in: "a\x00", err: "it has the control byte 0x00"},
	{in: "a\x7f", err: "it has the control byte 0x7f"},
	{in: "a*b", err: "the host has the character '*'"},
	{in: "a,b", err: "the host has the character ','"},
	{in: "a'b", err: "the host has the character '''"},

	// Lengths.
	{in: strings.Repeat("a", 63) + ".b", want: strings.Repeat("a", 63) + ".b"},
	{in: strings.Repeat("a", 64) + ".b", err: "the host has a label longer than 63 bytes"},
	{in: strings.Repeat("a.", 126) + "b.", want: strings.Repeat("a.", 126) + "b"},
	{in: strings.Repeat("a.", 126) + "bc", err: "the host is longer than 253 bytes"},
	{in: strings.Repeat("ü", 63), err: "the host has a label longer than 63 bytes"},
	{in: strings.Repeat("a", 1101), err: "longer than 1100 bytes"},
}

func TestParseHost(t *testing.T) {
	for _, tc := range hostTests {
		t.Run(tc.in, func(t *testing.T) {
			host, addr, err := ParseHost(tc.in)
			if tc.err != "" {
				wantReason(t, err, tc.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if host != tc.want || addr.IsValid() != tc.addr {
				t.Fatalf("got %q, %v; want %q, address %t", host, addr, tc.want, tc.addr)
			}
			if tc.addr && addr.String() != tc.want {
				t.Fatalf("address %v, want %s", addr, tc.want)
			}
		})
	}
}

func TestParseHostUnbracketedIPv6(t *testing.T) {
	for in, want := range map[string]string{"::1": "::1", "2001:DB8::1": "2001:db8::1", "::ffff:10.0.0.1": "10.0.0.1"} {
		if host, addr, err := ParseHost(in); err != nil || host != want || addr.String() != want {
			t.Errorf("ParseHost(%q) = %q, %v, %v", in, host, addr, err)
		}
	}
}

func TestParseHostPortTakesEveryHost(t *testing.T) {
	for _, tc := range hostTests {
		got, err := ParseHostPort(tc.in+":8080", 0)
		if tc.err != "" {
			if err == nil {
				t.Errorf("%q: got %v, want an error", tc.in, got)
			}
			continue
		}
		if err != nil || got.Host != tc.want || got.IsAddr() != tc.addr || got.Port != 8080 {
			t.Errorf("%q: got %v, %v", tc.in, got, err)
		}
	}
}

func TestParseAuthority_RFC9110_9_3_6(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: "example.com:443", want: "example.com:443"},
		{in: "Example.COM.:443", want: "example.com:443"},
		{in: "example.com:0443", want: "example.com:443"},
		{in: "example.com:0000000000000000000000443", want: "example.com:443"},
		{in: "example.com:1", want: "example.com:1"},
		{in: "example.com:65535", want: "example.com:65535"},
		{in: "[::1]:443", want: "[::1]:443"},
		{in: "[::ffff:1.2.3.4]:443", want: "1.2.3.4:443"},
		{in: "0x7f.1:80", want: "127.0.0.1:80"},

		{in: "", err: "the host is empty"},
		{in: ":443", err: "the host is empty"},
		{in: "example.com", err: "the port is missing"},
		{in: "example.com:", err: "the port is missing"},
		{in: "[::1]", err: "the port is missing"},
		{in: "[::1]:", err: "the port is missing"},
		{in: "example.com:0", err: "port 0 cannot be connected to"},
		{in: "example.com:000", err: "port 0 cannot be connected to"},
		{in: "example.com:65536", err: "the port is above 65535"},
		{in: "example.com:65979", err: "the port is above 65535"}, // 443 modulo 65536
		{in: "example.com:18446744073709552059", err: "the port is above 65535"},
		{in: "example.com:+80", err: "the port is not a number"},
		{in: "example.com:-1", err: "the port is not a number"},
		{in: "example.com:0x50", err: "the port is not a number"},
		{in: "example.com:80a", err: "the port is not a number"},
		{in: "example.com:８０", err: "the port is not a number"},
		{in: "example.com:https", err: "the port is not a number"},
		{in: "example.com: 80", err: "it has a space"},
		{in: "example.com:80 ", err: "it has a space"},
		{in: "example.com:80\r\nX: y", err: "it has the control byte 0x0d"},
		{in: "example.com:80/", err: "it has a path, query or fragment ('/')"},
		{in: "http://example.com:80", err: "it has a path, query or fragment ('/')"},
		{in: "user@example.com:80", err: "it has user information ('@')"},
		{in: "user:pass@example.com:80", err: "it has user information ('@')"},
		{in: "a:80:80", err: "more than one colon (an IPv6 address needs brackets)"},
		{in: "::1:80", err: "more than one colon (an IPv6 address needs brackets)"},
		{in: "2001:db8::1:443", err: "more than one colon (an IPv6 address needs brackets)"},
		{in: "[::1", err: "']' is missing"},
		{in: "[::1]443", err: "only a port may follow ']'"},
		{in: "[::1]x:443", err: "only a port may follow ']'"},
		{in: "[::1]:443:1", err: "the port is not a number"},
		{in: "a[::1]:80", err: "more than one colon (an IPv6 address needs brackets)"},
		{in: "[127.0.0.1]:80", err: "not a valid IPv6 address"},
		{in: "[fe80::1%25eth0]:80", err: "it has a percent sign (percent-encoding and zone identifiers are not accepted)"},
		{in: strings.Repeat("a", 2000) + ":80", err: "longer than 1100 bytes"},
	} {
		t.Run(tc.in, func(t *testing.T) {
			got, err := ParseAuthority(tc.in)
			if tc.err != "" {
				wantReason(t, err, tc.err)
				if got != (Target{}) {
					t.Fatalf("got %v beside an error", got)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Fatalf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestParseHostPort_RFC3986_3_2_3(t *testing.T) {
	for _, tc := range []struct {
		in   string
		port uint16
		want string
		err  string
	}{
		{in: "h", port: 80, want: "h:80"},
		{in: "h:", port: 80, want: "h:80"},
		{in: "h.", port: 443, want: "h:443"},
		{in: "h:443", port: 80, want: "h:443"},
		{in: "h:00080", port: 443, want: "h:80"},
		{in: "[::1]", port: 80, want: "[::1]:80"},
		{in: "[::1]:", port: 80, want: "[::1]:80"},
		{in: "127.1", port: 80, want: "127.0.0.1:80"},
		{in: "::1", port: 80, err: "more than one colon (an IPv6 address needs brackets)"},
		{in: "h", port: 0, err: "the port is missing"},
		{in: "h:0", port: 80, err: "port 0 cannot be connected to"},
		{in: "", port: 80, err: "the host is empty"},
		{in: ":", port: 80, err: "the host is empty"},
		{in: "allowed@denied", port: 80, err: "it has user information ('@')"},
	} {
		got, err := ParseHostPort(tc.in, tc.port)
		if tc.err != "" {
			wantReason(t, err, tc.err)
			continue
		}
		if err != nil || got.String() != tc.want {
			t.Errorf("%q: got %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := ParseAuthority("a\x1b[31m:80")
	if got, want := err.Error(), "invalid destination: it has the control byte 0x1b"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestCanonicalInputDoesNotAllocate(t *testing.T) {
	for _, in := range []string{
		"example.com:443", "a-b_c.r3---sn.example:80", "192.0.2.1:80", "[2001:db8::1]:443",
	} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := ParseAuthority(in); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("ParseAuthority(%q): %v allocations", in, n)
		}
	}
}

func TestCarried(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1":                            "",
		"2606:4700::1":                         "",
		"::":                                   "",
		"::1":                                  "",
		"::2":                                  "0.0.0.2",
		"::127.0.0.1":                          "127.0.0.1",
		"::ffff:127.0.0.1":                     "127.0.0.1",
		"::ffff:0:127.0.0.1":                   "127.0.0.1",
		"64:ff9b::10.1.2.3":                    "10.1.2.3",
		"64:ff9b::10.1.2.3%eth0":               "10.1.2.3",
		"64:ff9b:0:1::10.1.2.3":                "",
		"64:ff9b:1::10.1.2.3":                  "10.1.2.3",
		"64:ff9b:1:0a01:2:300::":               "10.1.2.3",
		"64:ff9b:1:0a01:2:300::5":              "10.1.2.3",
		"64:ff9b:1:0808:8:800:0a01:203":        "8.8.8.8 10.1.2.3",
		"64:ff9b:1:0808:8:0:a00:1":             "8.8.8.0 10.0.0.1",
		"64:ff9b:1::":                          "0.0.0.0 0.0.0.0",
		"64:ff9b:2::10.1.2.3":                  "",
		"2002:7f00:1::":                        "127.0.0.1",
		"2002:0808:0808::1":                    "8.8.8.8",
		"2002:0808:0808::5efe:10.0.0.1":        "8.8.8.8 10.0.0.1",
		"2001:0:4136:e378:8000:63bf:80ff:fffe": "65.54.227.120 127.0.0.1",
		"2001:0:7f00:1:0:5efe:f7f7:f7f7":       "127.0.0.1 8.8.8.8 247.247.247.247",
		"2001:db8::5efe:127.0.0.1":             "127.0.0.1",
		"2001:db8::200:5efe:127.0.0.1":         "127.0.0.1",
		"fe80::5efe:127.0.0.1":                 "127.0.0.1",
		"2001:db8::1:5efe:127.0.0.1":           "",
	} {
		got, n := Carried(netip.MustParseAddr(in))
		var texts []string
		for _, a := range got[:n] {
			texts = append(texts, a.String())
		}
		if s := strings.Join(texts, " "); s != want {
			t.Errorf("Carried(%s) = %q, want %q", in, s, want)
		}
	}
	if _, n := Carried(netip.Addr{}); n != 0 {
		t.Error("the zero address carries something")
	}
	a := netip.MustParseAddr("2001:0:4136:e378:8000:5efe:80ff:fffe")
	if n := testing.AllocsPerRun(100, func() { Carried(a) }); n != 0 {
		t.Errorf("Carried: %v allocations", n)
	}
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want *Error %q", err, reason)
	}
	if e.Reason != reason {
		t.Fatalf("got reason %q, want %q", e.Reason, reason)
	}
}

func BenchmarkParseAuthority(b *testing.B) {
	for _, in := range []string{"example.com:443", "192.0.2.1:443", "bücher.example:443"} {
		b.Run(in, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseAuthority(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
