package proxydial

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
)

func netAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// answering reads one request head and answers with text, then holds the
// connection until the client closes it, or closes it itself.
func answering(text string, thenClose bool) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := readHead(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, text)
		if !thenClose {
			_, _ = io.Copy(io.Discard, r)
		}
	}
}

func TestConnectRequest(t *testing.T) {
	heads := make(chan string, 1)
	f := listen(t, func(c net.Conn) {
		head, _ := readHead(bufio.NewReader(c))
		heads <- head
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	})
	for _, tc := range []struct {
		cfg  Config
		to   Target
		want string
	}{
		{Config{}, testTarget, "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n"},
		{Config{}, Target{Host: "2001:db8::1", Port: 80}, "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"},
		{
			Config{Authenticate: true, User: "Aladdin", Password: "open sesame", Header: []h1.Field{{Name: "X-Zone", Value: " de "}}},
			testTarget,
			"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\nX-Zone: de\r\n\r\n",
		},
	} {
		tc.cfg.Scheme, tc.cfg.Dial = HTTP, dialTo(f.addr)
		tn, err := newDialer(t, tc.cfg).DialTunnel(testContext(t), tc.to, Client{})
		if err != nil {
			t.Fatal(err)
		}
		tn.Conn.Close()
		if got := <-heads; got != tc.want {
			t.Errorf("sent %q, want %q", got, tc.want)
		}
	}
}

// TestReplies: whatever a proxy says to CONNECT, and how it dies over it.
func TestReplies(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	for _, tc := range []struct {
		name   string
		answer string
		closes bool
		want   string // empty: a tunnel
		stage  Stage
		is     error
		large  bool
		early  string
		status int
	}{
		{name: "200", answer: "HTTP/1.1 200 Connection established\r\n\r\n", status: 200},
		{name: "200 of HTTP/1.0", answer: "HTTP/1.0 200 OK\r\n\r\n", status: 200},
		{name: "204", answer: "HTTP/1.1 204 Fine\r\n\r\n", status: 204},
		{name: "299", answer: "HTTP/1.1 299 Fine\r\n\r\n", status: 299},
		{name: "bytes behind the head", answer: "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n", early: "SSH-2.0-x\r\n", status: 200},
		{name: "2xx with Content-Length (RFC 9110 9.3.6)", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", early: "abc", status: 200},
		{name: "2xx with Transfer-Encoding (RFC 9110 9.3.6)", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n", early: "3\r\n", status: 200},
		{name: "many 1xx", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 400) + "HTTP/1.1 200 OK\r\n\r\n", status: 200},
		{
			name: "too many 1xx", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 500) + "HTTP/1.1 200 OK\r\n\r\n",
			want: "reply: malformed reply: informational responses and response head over 16384 bytes", stage: StageReply, large: true,
		},
		{name: "101", answer: "HTTP/1.1 101 Switching\r\n\r\n", want: "reply: malformed reply: 101 without an Upgrade", stage: StageReply},
		{name: "300", answer: "HTTP/1.1 300 Choose\r\n\r\n", want: "reply: status 300", stage: StageReply},
		{name: "403", answer: "HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nbody", want: "reply: status 403", stage: StageReply},
		{name: "407", answer: "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", want: "auth: status 407", stage: StageAuth},
		{name: "401", answer: "HTTP/1.1 401 No\r\n\r\n", want: "auth: status 401", stage: StageAuth},
		{name: "502 that explains", answer: "HTTP/1.1 502 No\r\nProxy-Status: p; error=dns_error; rcode=\"NXDOMAIN\"\r\n\r\n", want: "reply: status 502 (dns_error)", stage: StageReply},
		{name: "nothing", closes: true, want: "reply: EOF", stage: StageReply, is: io.EOF},
		{name: "a part", answer: "HTTP/1.1 20", closes: true, want: "reply: unexpected EOF within the response head", stage: StageReply, is: io.ErrUnexpectedEOF},
		{
			name: "1xx, then nothing", answer: "HTTP/1.1 100 Continue\r\n\r\n", closes: true,
			want: "reply: unexpected EOF after an informational response", stage: StageReply, is: io.ErrUnexpectedEOF,
		},
		{name: "garbage", answer: "SSH-2.0-OpenSSH\r\n\r\n", want: `reply: malformed reply: status line "SSH-2.0-OpenSSH"`, stage: StageReply},
		{name: "a TLS alert", answer: "\x15\x03\x01\x00\x02\x02\x16\r\n\r\n", want: `reply: malformed reply: status line "\x15\x03\x01\x00\x02\x02\x16"`, stage: StageReply},
		{name: "an oversize head", answer: "HTTP/1.1 200 OK\r\nX: " + long, want: "reply: malformed reply: response head over 16384 bytes", stage: StageReply, large: true},
		{name: "a folded line", answer: "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", want: "reply: malformed reply: obsolete line folding (RFC 9112 section 5.2)", stage: StageReply},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := listen(t, answering(tc.answer, tc.closes))
			d := newDialer(t, Config{Scheme: HTTP, Dial: dialTo(f.addr)})
			tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer tn.Conn.Close()
				// The last bytes may come with a later read than the head.
				rest := make([]byte, len(tc.early)-len(tn.Early))
				if _, err := io.ReadFull(tn.Conn, rest); err != nil {
					t.Fatal(err)
				}
				if got := string(tn.Early) + string(rest); got != tc.early {
					t.Errorf("early %q, want %q", got, tc.early)
				}
				if tn.Reply.Status != tc.status || tn.Protocol != "http/1.1" {
					t.Errorf("%+v", tn)
				}
				if _, ok := tn.Conn.(*net.TCPConn); !ok {
					t.Errorf("%T cannot be spliced", tn.Conn)
				}
				return
			}
			if err == nil {
				t.Fatal("a tunnel")
			}
			e := wantError(t, err)
			if err.Error() != "upstream proxy: "+tc.want || e.Stage != tc.stage || !e.Sent || e.Retryable {
				t.Errorf("%v (%+v), want %s", err, e, tc.want)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v is not %v", err, tc.is)
			}
			if m, ok := errors.AsType[*MalformedError](err); ok && m.TooLarge != tc.large {
				t.Errorf("too large: %v", m.TooLarge)
			}
		})
	}
}

// TestBlame: every row of the table of blame can be told from what an error says.
func TestBlame(t *testing.T) {
	reply := func(head string) func(net.Conn) { return answering("HTTP/1.1 "+head+"\r\n\r\n", false) }
	row := func(err error) string {
		e := wantError(t, err)
		switch r, ok := errors.AsType[*ReplyError](err); {
		case ok && e.Stage == StageAuth:
			return "407"
		case ok && r.Status == 403:
			return "403"
		case ok && r.RetryAfter != "":
			return "overload"
		case ok && r.ProxyError() == "proxy_internal_error":
			return "internal"
		case ok && r.ProxyError() != "":
			return "destination"
		case ok && r.Status >= 502 && r.Evident():
			return "suspicion, evident"
		case ok && r.Status >= 502:
			return "suspicion"
		}
		_, bad := errors.AsType[*MalformedError](err)
		switch {
		case errors.Is(err, context.Canceled):
			return "client"
		case e.Stage == StageDial || e.Stage == StageTLS:
			return e.Stage.String()
		case e.Timeout():
			return "reply timeout"
		case bad || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
			return "dead"
		}
		return "?"
	}
	for want, serve := range map[string][]func(net.Conn){
		"407":         {reply("407 x")},
		"403":         {reply("403 x")},
		"overload":    {reply("429 x\r\nRetry-After: 3"), reply("503 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT")},
		"internal":    {reply("500 x\r\nProxy-Status: a, b;error=proxy_internal_error")},
		"destination": {reply("502 x\r\nProxy-Status: far;error=dns_error, near"), reply("504 x\r\nproxy-status: a;error=connection_timeout")},
		"suspicion":   {reply("502 x"), reply("502 x\r\nContent-Length: 0"), reply("503 x\r\nContent-Length: 0\r\nVia: 1.1 a"), reply("504 x\r\nProxy-Status: ;;broken")},
		"suspicion, evident": {
			reply("503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111"),
		},
		"dead":          {answering("", true), answering("garbage\r\n\r\n", false), answering("HTTP/1.1 2", true)},
		"reply timeout": {answering("", false), answering("HTTP/1.1 200 OK\r\n", false)},
	} {
		for _, s := range serve {
			f := listen(t, s)
			timeout := patience
			if want == "reply timeout" {
				timeout = 50 * time.Millisecond
			}
			_, err := newDialer(t, Config{Scheme: HTTP, Dial: dialTo(f.addr), ReplyTimeout: timeout}).DialTunnel(testContext(t), testTarget, Client{})
			if got := row(err); got != want {
				t.Errorf("%v: row %q, want %q", err, got, want)
			}
		}
	}

	refused := newDialer(t, Config{Scheme: HTTP, Dial: func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED }})
	_, err := refused.DialTunnel(testContext(t), testTarget, Client{})
	if got := row(err); got != "dial" || !errors.Is(err, syscall.ECONNREFUSED) || wantError(t, err).Sent {
		t.Errorf("%v: row %q", err, got)
	}
	noTLS := listen(t, func(c net.Conn) {})
	_, err = newDialer(t, Config{Scheme: HTTPS, TLS: clientTLS(), Dial: dialTo(noTLS.addr)}).DialTunnel(testContext(t), testTarget, Client{})
	if got := row(err); got != "tls" || wantError(t, err).Sent {
		t.Errorf("%v: row %q", err, got)
	}
}

func TestTimeouts(t *testing.T) {
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	f := listen(t, silent)
	for _, tc := range []struct {
		name  string
		cfg   Config
		stage Stage
		sent  bool
	}{
		{"tls", Config{Scheme: HTTPS, TLS: clientTLS(), TLSTimeout: time.Millisecond}, StageTLS, false},
		{"reply", Config{Scheme: HTTP, ReplyTimeout: time.Millisecond}, StageReply, true},
		{"socks", Config{Scheme: SOCKS5H, ReplyTimeout: time.Millisecond}, StageNegotiate, false},
		{"dial", Config{Scheme: HTTP, Dial: func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}}, StageDial, false},
	} {
		if tc.cfg.Dial == nil {
			tc.cfg.Dial = dialTo(f.addr)
		}
		_, err := newDialer(t, tc.cfg).DialTunnel(testContext(t), testTarget, Client{})
		if e := wantError(t, err); e.Stage != tc.stage || !e.Timeout() || e.Sent != tc.sent {
			t.Errorf("%s: %v (%+v)", tc.name, err, e)
		}
	}
}

// TestCancel: the end of the context interrupts every step at once, and closes
// the connection.
func TestCancel(t *testing.T) {
	for _, tc := range []struct {
		cfg   Config
		stage Stage
	}{
		{Config{Scheme: HTTP}, StageReply},
		{Config{Scheme: HTTPS, TLS: clientTLS()}, StageTLS},
		{Config{Scheme: SOCKS5H}, StageNegotiate},
	} {
		closed := make(chan error, 1)
		came := make(chan struct{})
		f := listen(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			close(came)
			_, err := io.Copy(io.Discard, c)
			closed <- err
		})
		tc.cfg.Dial = dialTo(f.addr)
		d := newDialer(t, tc.cfg)
		ctx, cancel := context.WithCancel(testContext(t))
		go func() {
			<-came
			cancel()
		}()
		_, err := d.DialTunnel(ctx, testTarget, Client{})
		if e := wantError(t, err); !errors.Is(err, context.Canceled) || e.Stage != tc.stage {
			t.Errorf("%v (%+v)", err, e)
		}
		<-closed
	}
}

func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := newDialer(t, Config{Scheme: HTTP, Dial: func(context.Context) (net.Conn, error) {
		t.Error("dialed")
		return nil, io.EOF
	}})
	if _, err := d.DialTunnel(ctx, testTarget, Client{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestDeadlinesAreGone: the tunnel does not inherit those of the set-up.
func TestDeadlinesAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		go func() {
			_, _ = readHead(bufio.NewReader(server))
			_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\n\r\n")
			time.Sleep(time.Hour)
			_, _ = io.WriteString(server, "late")
		}()
		d, err := New(Config{Scheme: HTTP, ReplyTimeout: time.Second, Dial: func(context.Context) (net.Conn, error) { return client, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		tn, err := d.DialTunnel(ctx, testTarget, Client{})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		b := make([]byte, 4)
		if _, err := io.ReadFull(tn.Conn, b); err != nil || string(b) != "late" {
			t.Errorf("%q, %v", b, err)
		}
		tn.Conn.Close()
		d.Close()
	})
}

func TestTLSTunnel(t *testing.T) {
	for _, protocols := range [][]string{{"http/1.1"}, nil} {
		ended := make(chan error, 1)
		f := listen(t, func(c net.Conn) {
			tc := tls.Server(c, serverTLS(protocols...))
			r := bufio.NewReader(tc)
			if _, err := readHead(r); err != nil {
				ended <- err
				return
			}
			_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\n\r\n")
			_, err := io.Copy(tc, r)
			_ = tc.CloseWrite()
			ended <- err
		})
		d := newDialer(t, Config{Scheme: HTTPS, TLS: clientTLS(), Dial: dialTo(f.addr)})
		tn := mustTunnel(t, d)
		if tn.Protocol != "http/1.1" {
			t.Error(tn.Protocol)
		}
		echo(t, tn, "hello")
		if err := tn.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := tn.Conn.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		// Abort is no end.
		tn = mustTunnel(t, d)
		tn.Conn.(interface{ Abort() }).Abort()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the proxy saw %v", err)
		}
	}
}

func TestDialProxy(t *testing.T) {
	offered := make(chan []string, 1)
	f := listen(t, func(c net.Conn) {
		cfg := serverTLS("h2", "http/1.1")
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			offered <- h.SupportedProtos
			return nil, nil
		}
		tc := tls.Server(c, cfg)
		_, _ = readHead(bufio.NewReader(tc))
		_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	d := newDialer(t, Config{Scheme: HTTPS, TLS: clientTLS(), Dial: dialTo(f.addr)})
	nc, _, err := d.DialProxy(testContext(t), Client{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, ok := nc.(*tls.Conn); !ok {
		t.Errorf("%T", nc) // internal/h1 looks below it
	}
	hc := h1.NewConn(nc)
	hc.Begin()
	_, _ = hc.Write([]byte("GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n"))
	var head h1.Head
	if err := hc.ReadHead(&head, 4096); err != nil || head.Status != 200 {
		t.Error(head, err)
	}
	if got := <-offered; len(got) != 1 || got[0] != "http/1.1" {
		t.Errorf("offered %v", got)
	}
	socks := newDialer(t, Config{Scheme: SOCKS5, Dial: dialTo(f.addr)})
	if _, _, err := socks.DialProxy(testContext(t), Client{}, 0); err == nil || err.Error() != "upstream proxy: scheme socks5 carries tunnels only" {
		t.Error(err)
	}
}

func TestProxyProtocol(t *testing.T) {
	first := make(chan string, 1)
	f := listen(t, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		for !strings.Contains(string(b[:n]), "\r\n\r\n") || strings.HasPrefix(string(b[:n]), "\r\n\r\n") && strings.Count(string(b[:n]), "\r\n\r\n") < 2 {
			m, err := c.Read(b[n:])
			if err != nil {
				break
			}
			n += m
		}
		head, _, _ := strings.Cut(string(b[:n]), "CONNECT ")
		first <- head
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	})
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	v4, v6 := netAddrPort("192.0.2.7:4000"), netAddrPort("[2001:db8::7]:4000")
	us := netAddrPort("192.0.2.1:8080")
	for _, tc := range []struct {
		version int
		client  Client
		want    string
	}{
		{1, Client{v4, us}, "PROXY TCP4 192.0.2.7 192.0.2.1 4000 8080\r\n"},
		{1, Client{Source: v4}, "PROXY TCP4 192.0.2.7 0.0.0.0 4000 0\r\n"},
		{1, Client{v6, us}, "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 4000 8080\r\n"},
		{1, Client{Source: v6}, "PROXY TCP6 2001:db8::7 :: 4000 0\r\n"},
		{1, Client{Source: netAddrPort("[::ffff:192.0.2.7]:4000"), Destination: us}, "PROXY TCP4 192.0.2.7 192.0.2.1 4000 8080\r\n"},
		{1, Client{}, "PROXY UNKNOWN\r\n"},
		{2, Client{v4, us}, v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x0f\xa0\x1f\x90"},
		{2, Client{}, v2 + "\x20\x00\x00\x00"},
	} {
		d := newDialer(t, Config{Scheme: HTTP, ProxyProtocol: tc.version, Dial: dialTo(f.addr)})
		tn, err := d.DialTunnel(testContext(t), testTarget, tc.client)
		if err != nil {
			t.Fatal(err)
		}
		tn.Conn.Close()
		if got := <-first; got != tc.want {
			t.Errorf("%d %v: %q, want %q", tc.version, tc.client, got, tc.want)
		}
	}
	d := newDialer(t, Config{Scheme: HTTPS, TLS: clientTLS(), ProxyProtocol: 2, Dial: dialTo(f.addr)})
	if d.tlsBoth != nil {
		t.Error("HTTP/2 is offered, which mixes clients on one connection")
	}
	if err := d.Standby(1); err == nil {
		t.Error("standby connections with a PROXY protocol header")
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		_, _ = readHead(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(c, r)
	}()
	d := newDialer(t, Config{Scheme: HTTP, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}})
	echo(t, mustTunnel(t, d), "hello")
}

func TestBadArguments(t *testing.T) {
	dial := func(context.Context) (net.Conn, error) { return nil, io.EOF }
	for want, cfg := range map[string]Config{
		`scheme "ftp" is none of http, https, socks5, socks5h`:       {Scheme: "ftp"},
		"no function to dial with":                                   {Scheme: HTTP},
		"scheme https and TLS settings: the one needs the other":     {Scheme: HTTPS, Dial: dial},
		"scheme http and TLS settings: the one needs the other":      {Scheme: HTTP, Dial: dial, TLS: &tls.Config{}},
		"PROXY protocol version 3 is neither 1 nor 2":                {Scheme: HTTP, Dial: dial, ProxyProtocol: 3},
		"user name of 0 bytes, not 1 to 255 (RFC 1929)":              {Scheme: SOCKS5, Dial: dial, Authenticate: true},
		"password of 256 bytes, not 1 to 255 (RFC 1929)":             {Scheme: SOCKS5, Dial: dial, Authenticate: true, User: "u", Password: strings.Repeat("x", 256)},
		"user name with a colon (RFC 7617 section 2)":                {Scheme: HTTP, Dial: dial, Authenticate: true, User: "a:b"},
		"credentials that are not to be used":                        {Scheme: HTTP, Dial: dial, User: "a"},
		"header field Host cannot be set":                            {Scheme: HTTP, Dial: dial, Header: []h1.Field{{Name: "Host", Value: "x"}}},
		`header field "X" cannot be sent`:                            {Scheme: HTTP, Dial: dial, Header: []h1.Field{{Name: "X", Value: "a\r\nb"}}},
		"header fields for scheme socks5":                            {Scheme: SOCKS5, Dial: dial, Header: []h1.Field{{Name: "X", Value: "a"}}},
		"ping timeout -1s is negative":                               {Scheme: HTTP, Dial: dial, PingTimeout: -time.Second},
		"-1 tunnels a connection":                                    {Scheme: HTTP, Dial: dial, MaxTunnelsPerConn: -1},
		"stream window of -1 bytes is not between 0 and 1 GiB":       {Scheme: HTTP, Dial: dial, StreamWindow: -1},
		"reply head limit of 10 bytes is not between 256 and 16 MiB": {Scheme: HTTP, Dial: dial, MaxReplyHead: 10},
	} {
		if _, err := New(cfg); err == nil || err.Error() != "upstream proxy: "+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for want, tc := range map[string]struct {
		scheme Scheme
		to     Target
	}{
		"destination without a host":                             {HTTP, Target{Port: 1}},
		`destination "a" without a port`:                         {HTTP, Target{Host: "a"}},
		`destination "a\r\nX: y" is not a host`:                  {HTTP, Target{Host: "a\r\nX: y", Port: 1}},
		`destination "a b" is not a host`:                        {HTTP, Target{Host: "a b", Port: 1}},
		`destination "a:80" is not a host`:                       {HTTP, Target{Host: "a:80", Port: 1}},
		`destination "u@a" is not a host`:                        {HTTP, Target{Host: "u@a", Port: 1}},
		`destination "ä" is not a host`:                          {HTTP, Target{Host: "ä", Port: 1}},
		`destination "fe80::1%eth0" with a zone`:                 {HTTP, Target{Host: "fe80::1%eth0", Port: 1}},
		"destination with a name of 256 bytes, over 255":         {SOCKS5H, Target{Host: strings.Repeat("a", 256), Port: 1}},
		`destination "a" without an address, which socks5 needs`: {SOCKS5, Target{Host: "a", Port: 1}},
	} {
		d := newDialer(t, Config{Scheme: tc.scheme, Dial: dial})
		_, err := d.DialTunnel(testContext(t), tc.to, Client{})
		if _, ok := errors.AsType[*ArgumentError](err); !ok || err.Error() != "upstream proxy: "+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestAfterClose(t *testing.T) {
	d := newDialer(t, Config{Scheme: HTTP, Dial: func(context.Context) (net.Conn, error) { return nil, io.EOF }})
	d.Close()
	if _, err := d.DialTunnel(testContext(t), testTarget, Client{}); err != ErrClosed {
		t.Error(err)
	}
	if _, _, err := d.DialProxy(testContext(t), Client{}, 0); err != ErrClosed {
		t.Error(err)
	}
}
