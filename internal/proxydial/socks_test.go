package proxydial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// socksScript reads and writes in turn: what it reads must be as given.
type socksStep struct{ read, write string }

func socksFake(t testing.TB, closes bool, steps ...socksStep) *fakeProxy {
	return listen(t, func(c net.Conn) {
		for _, s := range steps {
			b := make([]byte, len(s.read))
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			if string(b) != s.read {
				t.Errorf("read %q, want %q", b, s.read)
			}
			_, _ = io.WriteString(c, s.write)
		}
		if !closes {
			_, _ = io.Copy(io.Discard, c)
		}
	})
}

const (
	socksHello     = "\x05\x01\x00"
	socksHelloAuth = "\x05\x02\x00\x02"
	socksAskName   = "\x05\x01\x00\x03\x0borigin.test\x01\xbb"
	socksOK        = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

func TestSOCKS(t *testing.T) {
	long := strings.Repeat("a", 255)
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, tc := range []struct {
		name   string
		cfg    Config
		to     Target
		steps  []socksStep
		closes bool
		want   string
		stage  Stage
		code   SOCKSCode
		is     error
		sent   bool
	}{
		{name: "name", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, socksOK}}},
		{name: "the longest name", to: Target{Host: long, Port: 443}, steps: []socksStep{{socksHello, "\x05\x00"}, {"\x05\x01\x00\x03\xff" + long + "\x01\xbb", socksOK}}},
		{name: "IPv6 as a name", to: Target{Host: "2001:db8::1", Port: 443}, steps: []socksStep{
			{socksHello, "\x05\x00"},
			{"\x05\x01\x00\x04" + string(v6.AsSlice()) + "\x01\xbb", socksOK},
		}},
		{
			name: "IPv4", cfg: Config{Scheme: SOCKS5}, to: Target{Host: "origin.test", Port: 443, Addr: netip.MustParseAddr("192.0.2.1")},
			steps: []socksStep{{socksHello, "\x05\x00"}, {"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb", socksOK}},
		},
		{
			name: "IPv4-mapped", cfg: Config{Scheme: SOCKS5}, to: Target{Host: "origin.test", Port: 443, Addr: netip.MustParseAddr("::ffff:192.0.2.1")},
			steps: []socksStep{{socksHello, "\x05\x00"}, {"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb", socksOK}},
		},
		{
			name: "IPv6", cfg: Config{Scheme: SOCKS5}, to: Target{Host: "origin.test", Port: 443, Addr: v6},
			steps: []socksStep{{socksHello, "\x05\x00"}, {"\x05\x01\x00\x04" + string(v6.AsSlice()) + "\x01\xbb", socksOK}},
		},
		{name: "bound to a name", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x00\x03\x02ab\x00\x01"}}},
		{name: "bound to no name", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x00\x03\x00\x00\x01"}}},
		{name: "bound to IPv6", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x00\x04" + strings.Repeat("\x00", 18)}}},
		{name: "login", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x02"}, {"\x01\x01u\x02pw", "\x01\x00"}, {socksAskName, socksOK}}},
		{name: "login not asked for", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x00"}, {socksAskName, socksOK}}},
		{
			name: "login refused", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x02"}, {"\x01\x01u\x02pw", "\x01\x01"}},
			want: "auth: socks: user and password refused", stage: StageAuth, code: SOCKSBadCredentials,
		},
		{
			name: "login, then the end", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x02"}, {"\x01\x01u\x02pw", ""}}, closes: true,
			want: "login: unexpected EOF", stage: StageLogin, is: io.ErrUnexpectedEOF,
		},
		{
			name: "half of a login", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x02"}, {"\x01\x01u\x02pw", "\x01"}}, closes: true,
			want: "login: unexpected EOF", stage: StageLogin, is: io.ErrUnexpectedEOF,
		},
		{
			name: "a login of version 0", cfg: Config{Authenticate: true, User: "u", Password: "pw"}, steps: []socksStep{{socksHelloAuth, "\x05\x02"}, {"\x01\x01u\x02pw", "\x00\x00"}},
			want: "login: malformed reply: SOCKS login version 0", stage: StageLogin,
		},
		{name: "no method", steps: []socksStep{{socksHello, "\x05\xff"}}, want: "auth: socks: no acceptable authentication method", stage: StageAuth, code: SOCKSNoMethod},
		{name: "a method not offered", steps: []socksStep{{socksHello, "\x05\x02"}}, want: "negotiate: malformed reply: SOCKS method 2, which was not offered", stage: StageNegotiate},
		{name: "another protocol", steps: []socksStep{{socksHello, "HTTP/1.1 400\r\n\r\n"}}, want: "negotiate: malformed reply: SOCKS version 72", stage: StageNegotiate},
		{name: "the end at once", closes: true, steps: []socksStep{{socksHello, ""}}, want: "negotiate: EOF", stage: StageNegotiate, is: io.EOF},
		{name: "the end in place of a reply", closes: true, steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, ""}}, want: "reply: EOF", stage: StageReply, is: io.EOF, sent: true},
		{name: "the end within a reply", closes: true, steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x00"}}, want: "reply: unexpected EOF", stage: StageReply, is: io.ErrUnexpectedEOF, sent: true},
		{name: "address type", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x00\x07\x00"}}, want: "reply: malformed reply: SOCKS address type 7", stage: StageReply, sent: true},
		{name: "reserved byte", steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x00\x01\x01\x00"}}, want: "reply: malformed reply: SOCKS reserved byte 1", stage: StageReply, sent: true},
		{name: "a refusal of two bytes", closes: true, steps: []socksStep{{socksHello, "\x05\x00"}, {socksAskName, "\x05\x05"}}, want: "reply: socks: connection refused", stage: StageReply, code: SOCKSRefused, sent: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := socksFake(t, tc.closes, tc.steps...)
			if tc.cfg.Scheme == "" {
				tc.cfg.Scheme = SOCKS5H
			}
			if tc.to.Host == "" {
				tc.to = testTarget
			}
			tc.cfg.Dial = dialTo(f.addr)
			tn, err := newDialer(t, tc.cfg).DialTunnel(testContext(t), tc.to, Client{})
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := tn.Conn.(*net.TCPConn); !ok || tn.Protocol != "socks5" {
					t.Errorf("%+v", tn)
				}
				tn.Conn.Close()
				return
			}
			if err == nil {
				t.Fatal("a tunnel")
			}
			e := wantError(t, err)
			if err.Error() != "upstream proxy: "+tc.want || e.Stage != tc.stage || e.Sent != tc.sent {
				t.Errorf("%v (%+v), want %s", err, e, tc.want)
			}
			if se, ok := errors.AsType[*SOCKSError](err); ok != (tc.code != 0) || ok && se.Code != tc.code {
				t.Errorf("%+v, want code %d", se, tc.code)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v is not %v", err, tc.is)
			}
		})
	}
}

// TestSOCKSCodes: each refusal of RFC 1928 §6 is its own.
func TestSOCKSCodes(t *testing.T) {
	for code, text := range map[SOCKSCode]string{
		SOCKSGeneralFailure: "general failure", SOCKSNotAllowed: "not allowed by its rules", SOCKSNetUnreachable: "network unreachable",
		SOCKSHostUnreachable: "host unreachable", SOCKSRefused: "connection refused", SOCKSTTLExpired: "TTL expired",
		SOCKSCommandNotSupported: "command not supported", SOCKSAddrTypeNotSupported: "address type not supported", 200: "reply code 200",
	} {
		err := readSOCKSReply(bytes.NewReader([]byte{5, byte(code), 0, 1, 0, 0, 0, 0, 0, 0}))
		if se, ok := errors.AsType[*SOCKSError](err); !ok || se.Code != code || err.Error() != "socks: "+text {
			t.Errorf("%d: %v", code, err)
		}
	}
}

// TestSOCKSBytesBehindTheReply stay in the socket, for the kernel to move.
func TestSOCKSBytesBehindTheReply(t *testing.T) {
	f := socksFake(t, false, socksStep{socksHello, "\x05\x00"}, socksStep{socksAskName, socksOK + "SSH-2.0"})
	tn := mustTunnel(t, newDialer(t, Config{Scheme: SOCKS5H, Dial: dialTo(f.addr)}))
	b := make([]byte, 7)
	if _, err := io.ReadFull(tn.Conn, b); err != nil || string(b) != "SSH-2.0" || tn.Early != nil {
		t.Errorf("%q, %v, early %q", b, err, tn.Early)
	}
}

// TestSOCKSByteByByte: a message may come in pieces.
func TestSOCKSByteByByte(t *testing.T) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		for _, s := range []socksStep{{socksHello, "\x05\x00"}, {socksAskName, socksOK}} {
			if _, err := io.ReadFull(server, make([]byte, len(s.read))); err != nil {
				return
			}
			for i := range len(s.write) {
				_, _ = io.WriteString(server, s.write[i:i+1])
			}
		}
	}()
	d := newDialer(t, Config{Scheme: SOCKS5H, Dial: func(context.Context) (net.Conn, error) { return client, nil }})
	mustTunnel(t, d)
}
