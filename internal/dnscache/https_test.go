package dnscache

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// open counts the connections that are open.
type open struct {
	mu sync.Mutex
	n  int
}

func (o *open) add(n int) {
	o.mu.Lock()
	o.n += n
	o.mu.Unlock()
}

func (o *open) now() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

type openConn struct {
	net.Conn
	once sync.Once
	o    *open
}

func (c *openConn) Close() error {
	c.once.Do(func() { c.o.add(-1) })
	return c.Conn.Close()
}

func (o *open) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	conn, err := dialPlain(ctx, network, to)
	if err != nil {
		return nil, err
	}
	o.add(1)
	return &openConn{Conn: conn, o: o}, nil
}

// A server that takes connections and says nothing costs nothing once the time of the
// questions is over.
func TestClientHungServerLeavesNothing(t *testing.T) {
	for _, scheme := range []string{"tcp", "tls", "https"} {
		t.Run(scheme, func(t *testing.T) {
			noLeaks(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close() // without an Accept: the kernel completes the connections
			server, err := ParseServer(scheme + "://" + ln.Addr().String() + map[string]string{"https": "/dns-query"}[scheme])
			if err != nil {
				t.Fatal(err)
			}
			var o open
			c, err := NewClient([]Server{server}, nil, o.dial, System{})
			if err != nil {
				t.Fatal(err)
			}
			c.servers[0].try = 200 * time.Millisecond
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					if _, err := c.Lookup(t.Context(), fmt.Sprint("n", i, ".test"), IPv4); err == nil {
						t.Error("an answer")
					}
				})
			}
			wg.Wait()
			await(t, func() bool { return o.now() == 0 })
		})
	}
}

// A server that answers with very many bytes of fields is not read to their end.
func TestClientLargeHTTPSHead(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("http2=", http2), func(t *testing.T) {
			size := 100
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				packed, _ := io.ReadAll(r.Body)
				q := new(dns.Msg)
				if err := q.Unpack(packed); err != nil {
					t.Error(err)
				}
				answer := new(dns.Msg).SetReply(q)
				answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
				packed, _ = answer.Pack()
				w.Header().Set("Content-Type", dnsMessage)
				w.Header().Set("X-Many", strings.Repeat("x", size))
				_, _ = w.Write(packed)
			}))
			srv.EnableHTTP2 = http2
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			defer srv.Close()
			server, err := ParseServer(srv.URL + "/dns-query")
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate())
			c, err := NewClient([]Server{server}, &tls.Config{RootCAs: roots}, nil, System{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseIdle()
			if _, err := c.Lookup(t.Context(), "small.test", IPv4); err != nil {
				t.Fatal(err)
			}
			size = 2 * maxHTTPSHead
			if _, err := c.Lookup(t.Context(), "large.test", IPv4); err == nil {
				t.Errorf("a head of %d bytes is taken", size)
			}
		})
	}
}

// An answer from a cache is as old as it says, and the content type is read as media types
// are (RFC 9110 §8.3.1).
func TestReadHTTPS_RFC8484_5_1(t *testing.T) {
	q := question("origin.test", IPv4)
	for _, tc := range []struct {
		kind, age string
		want      time.Duration // 0: no answer
	}{
		{dnsMessage, "", 600 * time.Second},
		{dnsMessage, "590", 10 * time.Second},
		{dnsMessage, "601", 0},
		{dnsMessage, "-1", 600 * time.Second},
		{dnsMessage, "soon", 600 * time.Second},
		{dnsMessage + "; charset=utf-8", "", 600 * time.Second},
		{"Application/DNS-Message", "", 600 * time.Second},
		{"text/html", "", -1},
		{"", "", -1},
	} {
		answer := new(dns.Msg).SetReply(q)
		header := dns.RR_Header{Name: "origin.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}
		answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)}}
		answer.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 700}, Ns: "ns.test.", Mbox: "mail.test.", Minttl: 600}}
		packed, err := answer.Pack()
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(packed))}
		resp.Header.Set("Content-Type", tc.kind)
		if tc.age != "" {
			resp.Header.Set("Age", tc.age)
		}
		m, err := readHTTPS(resp, q)
		if (err != nil) != (tc.want < 0) {
			t.Errorf("%q: %v", tc.kind, err)
		}
		if err != nil {
			continue
		}
		if got := replyOf(m, "origin.test", IPv4).TTL; got != tc.want {
			t.Errorf("age %q: %s", tc.age, got)
		}
		if got := negativeTTL(m); got != tc.want {
			t.Errorf("age %q: nothing for %s", tc.age, got)
		}
	}
}
