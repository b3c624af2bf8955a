package h1

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestMalformedHeads has each bad head with the exact error, whether it comes in
// one piece or byte by byte.
func TestMalformedHeads(t *testing.T) {
	with := func(fields ...string) string { return lines(append([]string{okLine}, fields...)...) }
	for _, tc := range []struct{ name, head, want string }{
		// RFC 9112 §4, status line
		{"empty line first", "\r\n" + with(), `status line ""`},
		{"no version", "200 OK\r\n\r\n", `status line "200 OK"`},
		{"only a version", "HTTP/1.1\r\n\r\n", `status line "HTTP/1.1"`},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", `status line "HTTP/2.0 200 OK"`},
		{"HTTP/0.9", "HTTP/0.9 200 OK\r\n\r\n", `status line "HTTP/0.9 200 OK"`},
		{"HTTP/1", "HTTP/1 200 OK\r\n\r\n", `status line "HTTP/1 200 OK"`},
		{"HTTP/1.10", "HTTP/1.10 200 OK\r\n\r\n", `status line "HTTP/1.10 200 OK"`},
		{"HTTP/1.x", "HTTP/1.x 200 OK\r\n\r\n", `status line "HTTP/1.x 200 OK"`},
		{"lower case", "http/1.1 200 OK\r\n\r\n", `status line "http/1.1 200 OK"`},
		{"space before", " HTTP/1.1 200 OK\r\n\r\n", `status line " HTTP/1.1 200 OK"`},
		{"tab for a space", "HTTP/1.1\t200 OK\r\n\r\n", `status line "HTTP/1.1\t200 OK"`},
		{"another protocol", "SSH-2.0-OpenSSH_9.9 hello\r\n\r\n", `status line "SSH-2.0-OpenSSH_9.9 hello"`},
		{"long garbage is cut", strings.Repeat("x", 100) + "\r\n\r\n", `status line "` + strings.Repeat("x", 40) + `"`},
		{"garbage is quoted", "\x1b[2J\x00\r\n\r\n", `status line "\x1b[2J\x00"`},
		{"two spaces", "HTTP/1.1  200 OK\r\n\r\n", `status code in "HTTP/1.1  200 OK"`},
		{"no code", "HTTP/1.1 \r\n\r\n", `status code in "HTTP/1.1 "`},
		{"code of two digits", "HTTP/1.1 20 OK\r\n\r\n", `status code in "HTTP/1.1 20 OK"`},
		{"code of four digits", "HTTP/1.1 2000 OK\r\n\r\n", `status code in "HTTP/1.1 2000 OK"`},
		{"code and reason in one", "HTTP/1.1 200OK\r\n\r\n", `status code in "HTTP/1.1 200OK"`},
		{"code with a tab behind", "HTTP/1.1 200\tOK\r\n\r\n", `status code in "HTTP/1.1 200\tOK"`},
		{"code that is no number", "HTTP/1.1 2x0 OK\r\n\r\n", `status code in "HTTP/1.1 2x0 OK"`},
		{"negative code", "HTTP/1.1 -20 OK\r\n\r\n", `status code in "HTTP/1.1 -20 OK"`},
		{"code 099", "HTTP/1.1 099 OK\r\n\r\n", `status code in "HTTP/1.1 099 OK"`},
		{"code 99", "HTTP/1.1 99 OK\r\n\r\n", `status code in "HTTP/1.1 99 OK"`},
		{"code 000", "HTTP/1.1 000 OK\r\n\r\n", `status code in "HTTP/1.1 000 OK"`},
		{"bare CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", "control character in the reason phrase"},
		{"CR CR LF", "HTTP/1.1 200 OK\r\r\n\r\n", "control character in the reason phrase"},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "control character in the reason phrase"},
		{"DEL in the reason", "HTTP/1.1 200 O\x7fK\r\n\r\n", "control character in the reason phrase"},

		// RFC 9112 §5, field lines
		{"no colon", with("Server"), `field line without a colon: "Server"`},
		{"long line without colon is cut", with(strings.Repeat("y", 100)), `field line without a colon: "` + strings.Repeat("y", 40) + `"`},
		{"empty name", with(": value"), `field name ""`},
		{"space before colon and within the name", with("Content Length : 5"), `field name "Content Length"`},
		{"space before colon hides nothing", with("Content-Length : 5", "Transfer-Encoding\t: chunked"), "both Transfer-Encoding and Content-Length (RFC 9112 section 6.3)"},
		{"space in name", with("Content Length: 5"), `field name "Content Length"`},
		{"NUL in name", with("Ser\x00ver: x"), `field name "Ser\x00ver"`},
		{"CR in name", with("Ser\rver: x"), `field name "Ser\rver"`},
		{"obs-text in name", with("S\xe9rver: x"), `field name "S\xe9rver"`},
		{"delimiter in name", with("Ser(ver: x"), `field name "Ser(ver"`},
		{"obs-fold with a space", with("Server: a", " b"), "obsolete line folding (RFC 9112 section 5.2)"},
		{"obs-fold with a tab", with("Server: a", "\tb"), "obsolete line folding (RFC 9112 section 5.2)"},
		{"obs-fold hides a field", with("Server: a", " Content-Length: 5"), "obsolete line folding (RFC 9112 section 5.2)"},
		{"space before the first field", with(" Server: a"), "obsolete line folding (RFC 9112 section 5.2)"},
		{"line of white space", with("Server: a", " "), "obsolete line folding (RFC 9112 section 5.2)"},
		{"bare CR in a value", with("Server: a\rContent-Length: 5"), "control character in the value of field Server"},
		{"bare CR at the end of a value", with("Server: a\r"), "control character in the value of field Server"},
		{"bare CR at the start of a value", with("Server:\ra"), "control character in the value of field Server"},
		{"NUL in a value", with("Server: a\x00b"), "control character in the value of field Server"},
		{"DEL in a value", with("Server: a\x7fb"), "control character in the value of field Server"},
		{"ESC in a value", with("Server: \x1b[2J"), "control character in the value of field Server"},
		{"vertical tab around a value", with("Server: \va\v"), "control character in the value of field Server"},
		{"lone CR as the empty line", okLine + "\r\n\r\r\n\r\n", `field line without a colon: "\r"`},

		// RFC 9112 §6.1, Transfer-Encoding
		{"TE and CL", with("Transfer-Encoding: chunked", "Content-Length: 5"), "both Transfer-Encoding and Content-Length (RFC 9112 section 6.3)"},
		{"CL and TE", with("Content-Length: 5", "Transfer-Encoding: chunked"), "both Transfer-Encoding and Content-Length (RFC 9112 section 6.3)"},
		{"TE and CL 0", with("Transfer-Encoding: chunked", "Content-Length: 0"), "both Transfer-Encoding and Content-Length (RFC 9112 section 6.3)"},
		{"TE gzip", with("Transfer-Encoding: gzip"), `Transfer-Encoding "gzip"`},
		{"TE gzip, chunked", with("Transfer-Encoding: gzip, chunked"), `Transfer-Encoding "gzip, chunked"`},
		{"TE chunked, gzip", with("Transfer-Encoding: chunked, gzip"), `Transfer-Encoding "chunked, gzip"`},
		{"TE chunked, chunked", with("Transfer-Encoding: chunked, chunked"), `Transfer-Encoding "chunked, chunked"`},
		{"TE identity", with("Transfer-Encoding: identity"), `Transfer-Encoding "identity"`},
		{"TE empty", with("Transfer-Encoding:"), `Transfer-Encoding ""`},
		{"TE with a comma", with("Transfer-Encoding: chunked,"), `Transfer-Encoding "chunked,"`},
		{"TE quoted", with(`Transfer-Encoding: "chunked"`), `Transfer-Encoding "\"chunked\""`},
		{"TE with a parameter", with("Transfer-Encoding: chunked;a=b"), `Transfer-Encoding "chunked;a=b"`},
		{"TE that is almost it", with("Transfer-Encoding: xchunked"), `Transfer-Encoding "xchunked"`},
		{"TE with a Kelvin sign for k", with("Transfer-Encoding: chun\u212aed"), `Transfer-Encoding "chun` + "\u212a" + `ed"`},
		{"TE twice", with("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), `Transfer-Encoding "chunked"`},
		{"TE in two lines", with("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), `Transfer-Encoding "gzip"`},
		{"TE in 1.0", lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"), "Transfer-Encoding in an HTTP/1.0 response (RFC 9112 section 6.1)"},
		{"TE in 1.0 with keep-alive", lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", "Connection: keep-alive"), "Transfer-Encoding in an HTTP/1.0 response (RFC 9112 section 6.1)"},

		// RFC 9112 §6.3, Content-Length
		{"CLs that differ", with("Content-Length: 5", "Content-Length: 6"), "differing Content-Length values (RFC 9112 section 6.3)"},
		{"CL list that differs", with("Content-Length: 5, 6"), "differing Content-Length values (RFC 9112 section 6.3)"},
		{"CL 0 and 5", with("Content-Length: 0", "Content-Length: 5"), "differing Content-Length values (RFC 9112 section 6.3)"},
		{"CL with a plus", with("Content-Length: +5"), `Content-Length "+5"`},
		{"CL with a minus", with("Content-Length: -5"), `Content-Length "-5"`},
		{"CL minus nought", with("Content-Length: -0"), `Content-Length "-0"`},
		{"CL 5 5", with("Content-Length:  5 5"), `Content-Length "5 5"`},
		{"CL empty", with("Content-Length:"), `Content-Length ""`},
		{"CL a comma", with("Content-Length: ,"), `Content-Length ","`},
		{"CL with a comma behind", with("Content-Length: 5,"), `Content-Length "5,"`},
		{"CL hex", with("Content-Length: 0x5"), `Content-Length "0x5"`},
		{"CL with underscore", with("Content-Length: 1_0"), `Content-Length "1_0"`},
		{"CL decimal", with("Content-Length: 5.0"), `Content-Length "5.0"`},
		{"CL exponent", with("Content-Length: 1e3"), `Content-Length "1e3"`},
		{"CL other digits", with("Content-Length: \u0665"), `Content-Length "` + "\u0665" + `"`},
		{"CL quoted", with(`Content-Length: "5"`), `Content-Length "\"5\""`},
		{"CL 2^63", with("Content-Length: 9223372036854775808"), `Content-Length "9223372036854775808"`},
		{"CL 2^64+5", with("Content-Length: 18446744073709551621"), `Content-Length "18446744073709551621"`},
		{"CL huge is cut", with("Content-Length: " + strings.Repeat("9", 100)), `Content-Length "` + strings.Repeat("9", 40) + `"`},
		{"CL bad after a good one", with("Content-Length: 5", "Content-Length: x"), `Content-Length "x"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, pieces := range [][]string{{tc.head}, bytewise(tc.head)} {
				c := begun(sendsAndStays(pieces...))
				_, _, err := framed(c, "GET")
				got := protocolError(t, err)
				p, _ := errors.AsType[*ProtocolError](err)
				if early := p.NoHTTP && len(pieces) > 1; !early && got != "malformed response: "+tc.want {
					t.Errorf("%d pieces:\ngot  %s\nwant malformed response: %s", len(pieces), got, tc.want)
				}
				if want := !strings.HasPrefix(tc.head, "HTTP/"); p.NoHTTP != want {
					t.Errorf("is no HTTP: %v, want %v", p.NoHTTP, want)
				}
				if p.TooLarge {
					t.Error("counts as too large")
				}
				if c.End() {
					t.Error("the connection counts as reusable")
				}
			}
		})
	}
}

// TestGoodHeads has what looks unusual and must pass.
func TestGoodHeads(t *testing.T) {
	for _, tc := range []struct {
		name, head    string
		status, minor int
		fields        []Field
	}{
		{"plain", lines(okLine, "Server: x"), 200, 1, []Field{{"Server", "x"}}},
		{"no fields", lines(okLine), 200, 1, nil},
		{"no reason phrase", "HTTP/1.1 200 \r\n\r\n", 200, 1, nil},
		{"no space either", "HTTP/1.1 200\r\n\r\n", 200, 1, nil},
		{"reason with tab and obs-text", "HTTP/1.1 200 \t\xe9t\xe9\r\n\r\n", 200, 1, nil},
		{"HTTP/1.0", lines("HTTP/1.0 404 Not Found"), 404, 0, nil},
		{"HTTP/1.2 counts as 1.1", lines("HTTP/1.2 200 OK"), 200, 1, nil},
		{"HTTP/1.9 counts as 1.1", lines("HTTP/1.9 200 OK"), 200, 1, nil},
		{"status 100", lines("HTTP/1.1 100 Continue"), 100, 1, nil},
		{"status 599", lines("HTTP/1.1 599 x"), 599, 1, nil},
		{"status 999", lines("HTTP/1.1 999 x"), 999, 1, nil},
		{"LF only", "HTTP/1.1 200 OK\nServer: x\nAge: 1\n\n", 200, 1, []Field{{"Server", "x"}, {"Age", "1"}}},
		{"LF and CRLF mixed", "HTTP/1.1 200 OK\nServer: x\r\nAge: 1\n\r\n", 200, 1, []Field{{"Server", "x"}, {"Age", "1"}}},
		{"white space around a value", lines(okLine, "Server: \t x y \t"), 200, 1, []Field{{"Server", "x y"}}},
		{"no white space", lines(okLine, "Server:x"), 200, 1, []Field{{"Server", "x"}}},
		{"empty value", lines(okLine, "Server:"), 200, 1, []Field{{"Server", ""}}},
		{"value of white space", lines(okLine, "Server: \t "), 200, 1, []Field{{"Server", ""}}},
		{"tab and obs-text in a value", lines(okLine, "Server: a\tb\xe9"), 200, 1, []Field{{"Server", "a\tb\xe9"}}},
		{"colon in a value", lines(okLine, "Location: http://a:1/"), 200, 1, []Field{{"Location", "http://a:1/"}}},
		{
			"order and repetition are kept",
			lines(okLine, "Set-Cookie: b", "Age: 1", "Set-Cookie: a"), 200, 1,
			[]Field{{"Set-Cookie", "b"}, {"Age", "1"}, {"Set-Cookie", "a"}},
		},
		{
			"names in canonical form",
			lines(okLine, "content-type: a", "ETAG: b", "x-own-Name: c", "DNT: d", "-x--y: e", "www-authenticate: f"), 200, 1,
			[]Field{{"Content-Type", "a"}, {"Etag", "b"}, {"X-Own-Name", "c"}, {"Dnt", "d"}, {"-X--Y", "e"}, {"Www-Authenticate", "f"}},
		},
		{"every token character", lines(okLine, "!#$%&'*+-.^_`|~09azAZ: x"), 200, 1, []Field{{"!#$%&'*+-.^_`|~09azaz", "x"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, pieces := range [][]string{{tc.head}, bytewise(tc.head)} {
				nc := sendsAndStays(pieces...)
				h := Head{Fields: []Field{{"Left", "over"}}}
				if err := begun(nc).ReadHead(&h, testLimit); err != nil {
					t.Fatal(err)
				}
				if h.Status != tc.status || h.Minor != tc.minor {
					t.Errorf("status %d of HTTP/1.%d, want %d of HTTP/1.%d", h.Status, h.Minor, tc.status, tc.minor)
				}
				if !slices.Equal(h.Fields, tc.fields) {
					t.Errorf("fields %q, want %q", h.Fields, tc.fields)
				}
				if nc.ends != 0 {
					t.Error("read on behind the head")
				}
			}
		})
	}
}
