package exchange

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// exchangeOf is an exchange for a request as net/http reads it from the
// wire, to the destination that it names.
func exchangeOf(t *testing.T, raw string) *Exchange {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.9:1234"
	dest, err := target.ParseHostPort(r.URL.Host, 80)
	if err != nil {
		t.Fatal(err)
	}
	x := newExchange(r, dest)
	x.BodyRead = true
	return x
}

// newExchange is an exchange that nobody has logged in for.
func newExchange(r *http.Request, dest target.Target) *Exchange {
	x := &Exchange{Config: &Config{MaxHead: 64 << 10}}
	x.Proxy, x.HTTP, x.Client = &core.Proxy{Via: core.NewVia("caddy"), Forwarded: "for"}, r, knownAs("")
	x.Use, x.Target = upstream.Exchange, dest
	return x
}

// knownAs is a client that has an address, or none that is known, and no name.
type knownAs string

func (ip knownAs) IP() string { return string(ip) }
func (knownAs) User() string  { return "" }

// head is the request head that would be sent.
func (t *Exchange) head(tb testing.TB) string {
	tb.Helper()
	b, err := t.appendRequestHead(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// fieldLines are the values of a field in a head, one a line.
func fieldLines(head, name string) []string {
	var values []string
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, v, ok := strings.Cut(line, ": "); ok && strings.EqualFold(n, name) {
			values = append(values, v)
		}
	}
	return values
}

// What is about one connection only stays behind.
func TestHopByHopFieldsAreNotForwarded(t *testing.T) {
	for _, field := range []string{
		"Proxy-Connection: keep-alive", "Keep-Alive: timeout=5", "TE: gzip", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk",
		"Proxy-Authorization: Basic Zm9v", "Proxy-Authenticate: Basic", "Proxy-Authentication-Info: x",
		"Connection: close", "Connection: keep-alive", "proxy-authorization: Basic Zm9v",
	} {
		name, _, _ := strings.Cut(field, ":")
		head := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"+field+"\r\nX-Kept: yes\r\n\r\n").head(t)
		if got := fieldLines(head, name); got != nil {
			t.Errorf("%s was forwarded: %q", field, got)
		}
		if got := fieldLines(head, "X-Kept"); !slices.Equal(got, []string{"yes"}) {
			t.Errorf("%s: X-Kept is %q", field, got)
		}
	}
}

func TestConnectionOptionsAreNotForwarded(t *testing.T) {
	for _, tc := range []struct {
		connection string
		gone       []string
	}{
		{"Connection: x-one", []string{"X-One"}},
		{"Connection: X-ONE , x-two,, close", []string{"X-One", "X-Two"}},
		{"Connection: x-one\r\nConnection: x-two", []string{"X-One", "X-Two"}},
		{"Connection: \t x-one \t", []string{"X-One"}},
		{"Connection: keep-alive", nil},
		// What carries the meaning of a message stays, whatever is said.
		{"Connection: authorization, cookie, content-type, host, via, cache-control, expect", nil},
	} {
		head := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"+tc.connection+
			"\r\nX-One: 1\r\nX-Two: 2\r\nAuthorization: Basic Zm9v\r\nCookie: a=b\r\nContent-Type: text/plain\r\nCache-Control: no-cache\r\n\r\n").head(t)
		for _, name := range []string{"X-One", "X-Two", "Authorization", "Cookie", "Content-Type", "Cache-Control", "Host", "Via"} {
			if gone := fieldLines(head, name) == nil; gone != slices.Contains(tc.gone, name) {
				t.Errorf("%q: %s is gone: %v", tc.connection, name, gone)
			}
		}
		if got := fieldLines(head, "Connection"); got != nil {
			t.Errorf("%q: Connection is %q", tc.connection, got)
		}
	}
}

func TestTrailersAreAskedFor(t *testing.T) {
	for te, want := range map[string]bool{
		"trailers": true, "Trailers": true, "gzip, trailers": true,
		"gzip": false, "trailers;q=1": false, "": false, "x-trailers": false,
	} {
		head := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTE: "+te+"\r\nConnection: TE\r\n\r\n").head(t)
		if got := slices.Equal(fieldLines(head, "TE"), []string{"trailers"}) && slices.Equal(fieldLines(head, "Connection"), []string{"TE"}); got != want {
			t.Errorf("TE: %s: %q %q", te, fieldLines(head, "TE"), fieldLines(head, "Connection"))
		}
	}
}

func TestVia(t *testing.T) {
	for _, tc := range []struct {
		major, minor int
		want         string
	}{{1, 0, "1.0"}, {1, 1, "1.1"}, {2, 0, "2"}, {3, 0, "3"}} {
		tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nVia: 1.0 first, 1.1 second\r\n\r\n")
		tx.HTTP.ProtoMajor, tx.HTTP.ProtoMinor = tc.major, tc.minor
		own := tx.Proxy.Via.Request[core.VersionIndex(tx.HTTP)]
		if !strings.HasPrefix(own, tc.want+" caddy (egress-") {
			t.Errorf("our element is %q", own)
		}
		want := []string{"1.0 first, 1.1 second", own}
		if got := fieldLines(tx.head(t), "Via"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		tx.Proxy.HideVia = true
		if got := fieldLines(tx.head(t), "Via"); !slices.Equal(got, want[:1]) {
			t.Errorf("hidden: %q", got)
		}
	}
}

// A request that comes back is recognised by our own element, in whichever line
// and place it stands, and that of another proxy of the same name is not.
func TestLoops(t *testing.T) {
	own, other := core.NewVia("caddy"), core.NewVia("caddy")
	if own.Request == other.Request {
		t.Fatal("two handlers have the same token")
	}
	for _, tc := range []struct {
		via  []string
		want bool
	}{
		{nil, false},
		{[]string{"1.1 caddy"}, false},
		{[]string{other.Request[1]}, false},
		{[]string{own.Request[1]}, true},
		{[]string{other.Request[2], "1.1 x", own.Request[3]}, true},
		{[]string{"1.0 a, " + own.Request[0] + ", 1.1 b"}, true},
	} {
		tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		tx.Proxy.Via = own
		tx.HTTP.Header["Via"] = tc.via
		if got := tx.CheckVia() == failure.Loop; got != tc.want {
			t.Errorf("%q: %v", tc.via, got)
		}
	}
}

func TestForwarded(t *testing.T) {
	for _, tc := range []struct {
		name   string
		client string
		uri    string
		https  bool
		change func(*core.Proxy)
		want   []string
	}{
		{"IPv4", "192.0.2.9:1234", "http://origin.test/", false, nil, []string{"for=192.0.2.9"}},
		{"IPv6", "[2001:db8::9]:1234", "http://origin.test/", false, nil, []string{`for="[2001:db8::9]"`}},
		{"IPv4-mapped", "[::ffff:192.0.2.9]:1234", "http://origin.test/", false, nil, []string{"for=192.0.2.9"}},
		{"zone", "[fe80::9%eth0]:1234", "http://origin.test/", false, nil, []string{`for="[fe80::9]"`}},
		{"no address", "@", "http://origin.test/", false, nil, []string{"for=unknown"}},
		{"hidden", "192.0.2.9:1234", "http://origin.test/", false, func(h *core.Proxy) { h.HideIP = true }, []string{"for=unknown"}},
		{"off", "192.0.2.9:1234", "http://origin.test/", false, func(h *core.Proxy) { h.Forwarded = "off" }, nil},
		{"full", "192.0.2.9:1234", "http://origin.test/", false, func(h *core.Proxy) { h.Forwarded = "full" }, []string{`for=192.0.2.9;proto=http;host="origin.test"`}},
		{"full, port", "192.0.2.9:1234", "http://origin.test:8080/", false, func(h *core.Proxy) { h.Forwarded = "full" }, []string{`for=192.0.2.9;proto=http;host="origin.test:8080"`}},
		{"full, https", "[2001:db8::9]:1234", "https://origin.test:443/", true, func(h *core.Proxy) { h.Forwarded = "full" }, []string{`for="[2001:db8::9]";proto=https;host="origin.test"`}},
		{"full, IPv6 host", "192.0.2.9:1234", "http://[2001:db8::1]:81/", false, func(h *core.Proxy) { h.Forwarded = "full" }, []string{`for=192.0.2.9;proto=http;host="[2001:db8::1]:81"`}},
		{"full, hidden", "192.0.2.9:1234", "http://origin.test/", false, func(h *core.Proxy) { h.Forwarded, h.HideIP = "full", true }, []string{`for=unknown;proto=http;host="origin.test"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tx := exchangeOf(t, "GET "+tc.uri+" HTTP/1.1\r\nHost: x\r\n\r\n")
			tx.HTTP.RemoteAddr, tx.HTTPS = tc.client, tc.https
			if tc.change != nil {
				tc.change(tx.Proxy)
			}
			if got := fieldLines(tx.head(t), "Forwarded"); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// The client is Caddy's client_ip, which trusted proxies may have changed; what
// came before us stays before our element.
func TestForwardedClientIP(t *testing.T) {
	tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: x\r\nForwarded: for=198.51.100.1\r\n\r\n")
	tx.Client = knownAs("198.51.100.7")
	if got := fieldLines(tx.head(t), "Forwarded"); !slices.Equal(got, []string{"for=198.51.100.1", "for=198.51.100.7"}) {
		t.Errorf("%q", got)
	}
}

// The Host field is made from the request target, never from what the client
// wrote (RFC 9112 §3.2.2).
func TestHostIsThatOfTheTarget(t *testing.T) {
	for _, tc := range []struct {
		uri   string
		https bool
		want  string
	}{
		{"http://origin.test/", false, "origin.test"},
		{"http://origin.test:80/", false, "origin.test"},
		{"http://ORIGIN.test.:080/", false, "origin.test"},
		{"http://origin.test:443/", false, "origin.test:443"},
		{"https://origin.test:443/", true, "origin.test"},
		{"https://origin.test:80/", true, "origin.test:80"},
		{"http://[2001:DB8::1]/", false, "[2001:db8::1]"},
		{"http://[2001:db8::1]:81/", false, "[2001:db8::1]:81"},
		{"http://192.0.2.1:81/", false, "192.0.2.1:81"},
	} {
		tx := exchangeOf(t, "GET "+tc.uri+" HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n")
		tx.HTTPS = tc.https
		if got := fieldLines(tx.head(t), "Host"); !slices.Equal(got, []string{tc.want}) {
			t.Errorf("%s: Host is %q, want %s", tc.uri, got, tc.want)
		}
	}
}

func TestRequestTarget(t *testing.T) {
	for _, tc := range []struct{ method, uri, want string }{
		{"GET", "http://origin.test", "/"},
		{"GET", "http://origin.test/", "/"},
		{"GET", "http://origin.test?", "/?"},
		{"GET", "http://origin.test?a=b", "/?a=b"},
		{"GET", "http://origin.test?a=http://x/y", "/?a=http://x/y"},
		{"GET", "HTTP://origin.test:80/a/../b//c/./d", "/a/../b//c/./d"},
		{"GET", "http://origin.test/%2F%2e%e9%zz%00", ""}, // Go refuses it first
		{"GET", "http://origin.test/%2F%2e%E9%7e~", "/%2F%2e%E9%7e~"},
		{"GET", "http://origin.test/a;b?c|d^e`{}\"<>", "/a;b?c|d^e`{}\"<>"},
		{"GET", "http://origin.test/\xc3\xa9?\xff", "/\xc3\xa9?\xff"},
		{"GET", "http://origin.test//evil.test/", "//evil.test/"},
		{"OPTIONS", "http://origin.test", "*"},
		{"OPTIONS", "http://origin.test:80", "*"},
		{"OPTIONS", "http://origin.test/", "/"},
		{"OPTIONS", "http://origin.test?a", "/?a"},
	} {
		raw := tc.method + " " + tc.uri + " HTTP/1.1\r\nHost: x\r\n\r\n"
		if tc.want == "" {
			if _, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw))); err == nil {
				t.Errorf("%q: Go accepts it", tc.uri)
			}
			continue
		}
		tx := exchangeOf(t, raw)
		got, err := tx.requestTarget()
		if err != nil || got != tc.want {
			t.Errorf("%s %q: %q, %v", tc.method, tc.uri, got, err)
		}
		if line, _, _ := strings.Cut(tx.head(t), "\r\n"); line != tc.method+" "+tc.want+" HTTP/1.1" {
			t.Errorf("%s %q: request line %q", tc.method, tc.uri, line)
		}
	}
}

// On HTTP/2 and HTTP/3 the target is a path, and Go checks less.
func TestRequestTargetOfStreams(t *testing.T) {
	for _, tc := range []struct{ method, path, want string }{
		{"GET", "/a?b", "/a?b"},
		{"GET", "/a//b", "/a//b"},
		{"GET", "", "/"},
		{"OPTIONS", "*", "*"},
		{"GET", "/a b", ""},
		{"GET", "/a\tb", ""},
		{"GET", "/a\r\nX: y", ""},
		{"GET", "/a\x00", ""},
		{"GET", "/a\x7f", ""},
		{"GET", "/a#b", ""},
		{"GET", "/a HTTP/1.1\r\nX: y", ""},
		{"GET /x", "/", ""},
		{"", "/", ""},
		{"G\r\nX: y", "/", ""},
	} {
		tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
		tx.HTTP.ProtoMajor, tx.HTTP.ProtoMinor = 2, 0
		tx.HTTP.Method, tx.HTTP.RequestURI, tx.HTTP.URL = tc.method, tc.path, &url.URL{Path: tc.path}
		got, err := tx.requestTarget()
		if got != tc.want {
			t.Errorf("%q %q: %q", tc.method, tc.path, got)
		}
		if tc.want == "" && (err == nil || failure.Of(err).Status != 400) {
			t.Errorf("%q %q: error %v", tc.method, tc.path, err)
		}
	}
}

// Fields that could break out of their line are refused, wherever they come
// from.
func TestFieldsAreChecked(t *testing.T) {
	for name, value := range map[string]string{
		"X-A": "a\r\nX-B: b", "X-C": "a\x00", "X-D": "a\nb", "X E": "a", "": "a", "X:F": "a", "X-G\r\n": "a",
	} {
		tx := exchangeOf(t, "GET http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
		tx.HTTP.Header[name] = []string{value}
		if b, err := tx.appendRequestHead(nil); err == nil || failure.Of(err) != failure.Request {
			t.Errorf("%q: %q: %q, %v", name, value, b, err)
		}
	}
}

func TestMaxForwards(t *testing.T) {
	for _, tc := range []struct {
		method string
		values []string
		want   []string
		last   bool // the request ends here
	}{
		{"TRACE", []string{"5"}, []string{"4"}, false},
		{"OPTIONS", []string{"1"}, []string{"0"}, false},
		{"TRACE", []string{"0"}, nil, true},
		{"OPTIONS", []string{"00"}, nil, true},
		{"GET", []string{"0"}, []string{"0"}, false},
		{"GET", []string{"7"}, []string{"7"}, false},
		{"TRACE", nil, nil, false},
		{"TRACE", []string{"-1"}, []string{"-1"}, false},
		{"TRACE", []string{"many"}, []string{"many"}, false},
		{"TRACE", []string{"4294967295"}, []string{"4294967294"}, false},
		{"TRACE", []string{"99999999999"}, []string{"99999999999"}, false},
	} {
		t.Run(fmt.Sprint(tc.method, tc.values), func(t *testing.T) {
			tx := exchangeOf(t, tc.method+" http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
			if tc.values != nil {
				tx.HTTP.Header["Max-Forwards"] = tc.values
			}
			n, ok := tx.MaxForwards()
			if last := ok && n == 0; last != tc.last {
				t.Fatalf("ends here: %v", last)
			}
			if tc.last {
				return
			}
			if got := fieldLines(tx.head(t), "Max-Forwards"); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// The last hop answers itself, and reflects no credentials.
func TestAnswerLastHop(t *testing.T) {
	answer := func(method string) *httptest.ResponseRecorder {
		tx := exchangeOf(t, method+" http://origin.test/a HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n"+
			"Cookie: secret=1\r\nAuthorization: Basic secret\r\nProxy-Authorization: Basic secret\r\nX-Seen: yes\r\n\r\n")
		w := httptest.NewRecorder()
		tx.Writer = w
		if err := tx.answerLastHop(); err != nil {
			t.Error(err)
		}
		return w
	}
	w := answer("OPTIONS")
	if w.Code != 200 || !strings.Contains(w.Header().Get("Allow"), "CONNECT") || w.Body.Len() != 0 {
		t.Errorf("OPTIONS: %d %v %s", w.Code, w.Header(), w.Body)
	}
	w = answer("TRACE")
	if body := w.Body.String(); w.Code != 200 || w.Header().Get("Content-Type") != "message/http" ||
		!strings.HasPrefix(body, "TRACE http://origin.test/a HTTP/1.1\r\n") || !strings.Contains(body, "X-Seen: yes") || strings.Contains(body, "secret") {
		t.Errorf("TRACE: %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// A message has one framing, ours, whatever the client's was.
func TestFraming(t *testing.T) {
	for _, tc := range []struct {
		name     string
		raw      string
		bodyRead bool
		length   []string
		coding   []string
	}{
		{"none", "GET http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n", true, nil, nil},
		{"empty", "POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", true, []string{"0"}, nil},
		{"length", "POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", false, []string{"5"}, nil},
		{"doubled length", "POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", false, []string{"5"}, nil},
		{"chunked", "POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, nil, []string{"chunked"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tx := exchangeOf(t, tc.raw)
			tx.BodyRead = tc.bodyRead
			// net/http's server leaves the field where it has read it.
			if tx.HTTP.ContentLength == 0 && tc.length != nil {
				tx.HTTP.Header["Content-Length"] = []string{"0"}
			}
			head := tx.head(t)
			if got := fieldLines(head, "Content-Length"); !slices.Equal(got, tc.length) {
				t.Errorf("Content-Length %q", got)
			}
			if got := fieldLines(head, "Transfer-Encoding"); !slices.Equal(got, tc.coding) {
				t.Errorf("Transfer-Encoding %q", got)
			}
			if !strings.HasSuffix(head, "\r\n\r\n") || strings.Count(head, "\r\n\r\n") != 1 {
				t.Errorf("head %q", head)
			}
		})
	}
}

// The head of another attempt frames a body that was read to its end in the first.
func TestFraming_OfAnotherAttempt(t *testing.T) {
	tx := exchangeOf(t, "PUT http://origin.test/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
	tx.upload, tx.BodyRead = new(upload), true
	if head := tx.head(t); !slices.Equal(fieldLines(head, "Transfer-Encoding"), []string{"chunked"}) {
		t.Errorf("head %q", head)
	}
}
