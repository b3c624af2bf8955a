package integration

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/raceflag"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// early sends a request in the first flight of an HTTP/3 connection that resumes the
// session in cache.
func (p *proxy) early(t *testing.T, cache tls.ClientSessionCache, method, destination string) *http.Response {
	t.Helper()
	if raceflag.On {
		t.Skip("the client of quic-go v0.63.0 races with itself: it opens streams while it takes in the transport parameters")
	}
	config := clientTLS(http3.NextProtoH3)
	config.ClientSessionCache = cache
	c := p.client(t, "h1") // for its patience
	conn, err := quic.DialAddrEarly(c.ctx, p.secure, config, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	str, err := (&http3.Transport{}).NewClientConn(conn).OpenRequestStream(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := connectRequest(c.ctx, destination, nil)
	if method != "CONNECT" {
		r = &http.Request{Method: method, URL: &url.URL{Scheme: "https", Host: destination, Path: "/"}, Host: destination, Header: http.Header{}}
		r = r.WithContext(c.ctx)
	}
	if err := str.SendRequestHeader(r); err != nil {
		t.Fatal(err)
	}
	if method != "CONNECT" {
		if err := str.Close(); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := str.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	str.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	if used := conn.ConnectionState().Used0RTT; cache != nil && !used {
		t.Fatal("the request was not sent in early data")
	}
	return resp
}

// earlySession is a session with which a client can send early data.
func (p *proxy) earlySession(t *testing.T) tls.ClientSessionCache {
	t.Helper()
	stored := make(chan struct{}, 8)
	cache := &tellingCache{tls.NewLRUClientSessionCache(1), stored}
	config := clientTLS(http3.NextProtoH3)
	config.ClientSessionCache = cache
	conn, err := quic.DialAddr(t.Context(), p.secure, config, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, stored, "the session ticket")
	_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	return cache
}

type tellingCache struct {
	tls.ClientSessionCache
	stored chan struct{}
}

func (c *tellingCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil {
		select {
		case c.stored <- struct{}{}:
		default:
		}
	}
}

// RFC 8470: what must not be done twice is refused with 425 before the handshake is
// complete; the rest is forwarded, and says so. What a matcher answers is the answer.
func TestEarlyData_RFC8470(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin, saw := recorder(t, okResponse)
		p := start(t, m, setup{egress: usual + "route {\n match {\n method GET POST\n}\n to direct\n}\nroute {\n match {\n remote_ip 127.0.0.1\n}\n to direct\n}\n"})
		// The handshake may be over before the handler looks: then a request is no
		// early one any more, whatever it was sent in. So each is tried until one is.
		for _, tc := range []struct {
			method string
			status int
		}{{"GET", 200}, {"POST", 425}, {"PUT", 425}, {"CONNECT", 425}, {"HEAD", 425}} {
			for try, early := 0, false; !early; try++ {
				if try == 100 {
					t.Fatalf("%s: no request was early", tc.method)
				}
				resp := p.early(t, p.earlySession(t), tc.method, origin.addr)
				switch {
				case resp.StatusCode == 425 && tc.status == 425:
					early = true
				case tc.method == "GET" && resp.StatusCode == 200:
					told := await(t, saw, "the GET").fields("Early-Data")
					if early = len(told) > 0; early && (len(told) > 1 || told[0] != "1") {
						t.Errorf("the origin got Early-Data %q", told)
					}
				case resp.StatusCode == 200 && tc.method != "CONNECT":
					if r := await(t, saw, tc.method); len(r.fields("Early-Data")) > 0 {
						t.Errorf("the origin got %q", r.head)
					}
				case resp.StatusCode != 200:
					t.Fatalf("%s in early data: status %d, want %d", tc.method, resp.StatusCode, tc.status)
				}
			}
		}
		select {
		case r := <-saw:
			t.Errorf("the origin got %q", r.head)
		default:
		}
		c := p.client(t, "h3")
		c.do(t, c.newRequest(t, "POST", origin.url("/"), bytes.NewReader([]byte("x")))).expect(t, 200, "ok")
		if r := await(t, saw, "the POST"); r.header.Get("Early-Data") != "" {
			t.Errorf("the origin got %q", r.head)
		}
	})
}

// RFC 8470 §5.1, §5.2: a client that has had a request in early data itself says so;
// that goes on to the origin, and a 425 comes back as it is.
func TestEarlyData_OfTheClient_RFC8470_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			origin, saw := recorder(t, "HTTP/1.1 425 Too Early\r\nX-From: origin\r\nContent-Length: 5\r\n\r\nearly")
			r := c.newRequest(t, "GET", origin.url("/"), nil)
			r.Header["Early-Data"] = []string{"1", "nonsense"}
			resp := c.do(t, r)
			resp.expect(t, 425, "early")
			if resp.Header.Get("X-From") != "origin" || resp.Header.Get("Proxy-Status") != "" {
				t.Errorf("the 425 has %v", resp.Header)
			}
			if got := await(t, saw, "the request"); len(got.fields("Early-Data")) != 1 || got.header.Get("Early-Data") != "1" {
				t.Errorf("the origin got %q", got.head)
			}
			if n := origin.count(); n != 1 {
				t.Errorf("%d connections to the origin: a 425 was tried again", n)
			}
			r = c.newRequest(t, "POST", origin.url("/"), bytes.NewReader([]byte("x")))
			r.Header.Set("Early-Data", "1")
			if resp := c.do(t, r); resp.StatusCode != 425 || resp.Header.Get("X-From") != "" {
				t.Errorf("POST: %d %v", resp.StatusCode, resp.Header)
			}
		})
	})
}
