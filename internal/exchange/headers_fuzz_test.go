package exchange

import (
	"bufio"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

// FuzzRequestHead: of whatever request net/http takes from a client, the head that
// is sent on is one request and no more, for the same destination and with the same
// body length, and has the client's fields but for those that end here.
func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
		"GET http://a.test:8080/p?q=1%20 HTTP/1.0\r\nConnection: x-a, close\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
		"POST http://[2001:db8::1]/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\n\r\nhello",
		"PUT http://a.test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nVia: 1.1 a\r\nForwarded: for=x\r\n\r\n0\r\n\r\n",
		"OPTIONS http://a.test HTTP/1.1\r\nHost: x\r\nMax-Forwards: 3\r\nUpgrade: h2c\r\n\r\n",
		"TRACE http://a.test?x HTTP/1.1\r\nHost: x\r\nMax-Forwards: 99999999999\r\nMax-Forwards: 1\r\n\r\n",
		"GET http://a.test/#f HTTP/1.1\r\nHost: x\r\nConnection: host, content-length, te\r\nContent-Length: 0\r\nA\x7f: \x80\r\n\r\n",
		"G\"T http://1.2.3/..;//x\x80 HTTP/1.1\nHost: x\nProxy-Connection: x\n folded\n\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if len(raw) > 1<<14 {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.9:1234"
		https := strings.EqualFold(r.URL.Scheme, "https")
		dest, err := target.ParseHostPort(r.URL.Host, map[bool]uint16{false: 80, true: 443}[https])
		if err != nil || r.URL.User != nil || r.URL.Scheme == "" || r.Method == http.MethodConnect {
			return // is refused before
		}
		tr := newExchange(r, dest)
		tr.Proxy.Forwarded, tr.HTTPS = "full", https
		tr.BodyRead = r.ContentLength == 0 && len(r.TransferEncoding) == 0
		if n, ok := tr.MaxForwards(); ok && n == 0 {
			return // is answered here
		}
		head, err := tr.appendRequestHead(nil)
		if err != nil {
			return
		}
		br := bufio.NewReaderSize(strings.NewReader(string(head)), 1<<17)
		sent, err := http.ReadRequest(br)
		if err != nil || br.Buffered() > 0 {
			t.Fatalf("%q is sent as %q: %v, %d bytes are left", raw, head, err, br.Buffered())
		}
		compareRequests(t, tr, r, sent)
		if t.Failed() {
			t.Logf("%q is sent as %q", raw, head)
		}
	})
}

// compareRequests holds what is sent against what came.
func compareRequests(t *testing.T, tr *Exchange, came, sent *http.Request) {
	wantHost := strings.TrimSuffix(tr.Target.String(), ":80")
	if tr.HTTPS {
		wantHost = strings.TrimSuffix(tr.Target.String(), ":443")
	}
	if sent.Method != came.Method || sent.Host != wantHost || sent.ContentLength != came.ContentLength ||
		!slices.Equal(sent.TransferEncoding, came.TransferEncoding) {
		t.Errorf("%s to %s, length %d, %v; want %s", sent.Method, sent.Host, sent.ContentLength, sent.TransferEncoding, wantHost)
	}
	if sent.RequestURI != "*" && !strings.HasSuffix(came.RequestURI, strings.TrimPrefix(sent.RequestURI, "/")) {
		t.Errorf("%q has become %q", came.RequestURI, sent.RequestURI)
	}
	options := "," + strings.ToLower(strings.NewReplacer(" ", "", "\t", "").Replace(strings.Join(came.Header["Connection"], ","))) + ","
	ends := func(name string) bool {
		switch name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Upgrade", "Http2-Settings",
			"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info", "Content-Length", "Transfer-Encoding", "Max-Forwards", EarlyData:
			return true // or is written anew
		}
		return strings.Contains(options, ","+strings.ToLower(name)+",") && !essential(name)
	}
	for name, values := range came.Header {
		got := sent.Header[name]
		if name == "Via" || name == "Forwarded" {
			if len(got) != len(values)+1 {
				t.Errorf("%s is %q, was %q", name, got, values)
			}
			got = got[:len(values)]
		}
		if !ends(name) && !slices.Equal(got, values) {
			t.Errorf("%s is %q, was %q", name, got, values)
		}
	}
	for name, values := range sent.Header {
		ours := name == "Via" || name == "Forwarded" || name == "Content-Length" || name == "Max-Forwards" ||
			name == "Te" && slices.Equal(values, []string{"trailers"}) || name == "Connection" && slices.Equal(values, []string{"TE"})
		if !ours && (ends(name) || came.Header[name] == nil) {
			t.Errorf("%s: %q was made up, or should have ended here", name, values)
		}
	}
}
