// Package dnstest is a DNS server for tests. It speaks UDP, TCP, TLS and HTTPS on
// loopback and does what it is told to, right and wrong.
package dnstest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Records are what the server says about a name.
type Records struct {
	// Addrs are given to questions of their family.
	Addrs []netip.Addr

	// Lie gives IPv4 addresses to questions for IPv6 as well, as IPv4-mapped
	// ones and as A records.
	Lie bool

	// Alias is a name that this one leads to, whose addresses follow.
	Alias string

	// SRV are the answers to questions for that type, as host:port.
	SRV []string

	TTL uint32

	// Rcode is the code of the answer; it has no records unless it is 0.
	Rcode int

	// SOA is the negative TTL of an answer without addresses, 0 for none.
	SOA uint32

	// Wait holds the answer back until it is closed.
	Wait <-chan struct{}

	// Silent is no answer at all.
	Silent bool

	// Truncate sends datagrams that are truncated.
	Truncate bool

	// Instead changes the answer. What it returns is sent, in that order.
	Instead func(q, answer *dns.Msg) []*dns.Msg
}

// Server is a running server. Names that it was told nothing about do not exist.
type Server struct {
	Addr  string      // UDP and TCP
	TLS   string      // DNS over TLS
	HTTPS string      // the URL of DNS over HTTPS
	Trust *tls.Config // for clients: trusts the server's certificate, which is for example.com and 127.0.0.1
	CA    []byte      // what Trust trusts, as PEM

	mu    sync.Mutex
	names map[string]Records
	asked map[string]int // "proto type name" and each alone
	conns int            // accepted, over TCP and TLS
	done  chan struct{}
}

// Start runs a server until the end of the test. Options change how it speaks TLS.
func Start(t testing.TB, options ...func(*tls.Config)) *Server {
	t.Helper()
	s := &Server{names: make(map[string]Records), asked: make(map[string]int), done: make(chan struct{})}
	t.Cleanup(func() { close(s.done) }) // last: what waits can be shut down before
	ln, pc := listenBoth(t)
	s.Addr = ln.Addr().String()
	s.serve(t, &dns.Server{PacketConn: pc, Handler: s.handler("udp")})
	s.serve(t, &dns.Server{Listener: &counting{ln, s}, Handler: s.handler("tcp")})

	web := httptest.NewUnstartedServer(http.HandlerFunc(s.serveHTTPS))
	web.EnableHTTP2 = true
	web.TLS = new(tls.Config)
	for _, change := range options {
		change(web.TLS)
	}
	web.StartTLS()
	t.Cleanup(web.Close)
	s.HTTPS = web.URL + "/dns-query"
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	s.Trust = &tls.Config{RootCAs: roots}
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})

	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = raw.Addr().String()
	secured := tls.NewListener(&counting{raw, s}, &tls.Config{
		Certificates: web.TLS.Certificates, ClientAuth: web.TLS.ClientAuth, ClientCAs: web.TLS.ClientCAs,
	})
	s.serve(t, &dns.Server{Listener: secured, Handler: s.handler("tls")})
	return s
}

// listenBoth listens on one port for TCP and UDP.
func listenBoth(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return ln, pc
		}
		ln.Close()
	}
	t.Fatal("no port that is free for TCP and UDP")
	return nil, nil
}

func (s *Server) serve(t testing.TB, srv *dns.Server) {
	t.Helper()
	started := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(started) }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		s.release()
		_ = srv.Shutdown()
		<-ended
	})
}

// release lets answers go that are held back.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, r := range s.names {
		r.Wait, r.Silent = nil, true
		s.names[name] = r
	}
}

type counting struct {
	net.Listener
	s *Server
}

func (l *counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.s.mu.Lock()
		l.s.conns++
		l.s.mu.Unlock()
	}
	return conn, err
}

// Set says what the server knows of a name from now on.
func (s *Server) Set(name string, r Records) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[strings.ToLower(dns.Fqdn(name))] = r
}

// Asked is how often something was asked for: a name, a type ("A"), a protocol
// ("udp", "tcp", "tls", "https"), or with several words all of them, as in "udp A
// origin.test". "udp from 127.0.0.1" is how often over a protocol by whom.
func (s *Server) Asked(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[what]
}

// Conns is how many connections were made over TCP and TLS.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *Server) handler(proto string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		for _, m := range s.answer(proto, w.RemoteAddr().String(), q) {
			_ = w.WriteMsg(m)
		}
	}
}

func (s *Server) serveHTTPS(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	q := new(dns.Msg)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/dns-query" ||
		r.Header.Get("Content-Type") != "application/dns-message" || q.Unpack(body) != nil {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	answers := s.answer("https", r.RemoteAddr, q)
	if len(answers) == 0 {
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		return
	}
	packed, err := answers[0].Pack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/dns-message")
	_, _ = w.Write(packed)
}

func (s *Server) answer(proto, from string, q *dns.Msg) []*dns.Msg {
	name, kind := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	s.mu.Lock()
	r, known := s.names[name]
	for _, k := range []string{proto, dns.TypeToString[kind], strings.TrimSuffix(name, ".")} {
		s.asked[k]++
	}
	s.asked[proto+" "+dns.TypeToString[kind]+" "+strings.TrimSuffix(name, ".")]++
	if host, _, err := net.SplitHostPort(from); err == nil {
		s.asked[proto+" from "+host]++
	}
	s.mu.Unlock()
	if r.Wait != nil {
		select {
		case <-r.Wait:
		case <-s.done:
			return nil
		}
	}
	if r.Silent {
		return nil
	}
	m := new(dns.Msg)
	m.SetRcode(q, r.Rcode)
	m.RecursionAvailable, m.Compress = true, true
	switch {
	case !known:
		m.Rcode = dns.RcodeNameError
	case r.Rcode == dns.RcodeSuccess:
		s.addRecords(m, q.Question[0].Name, kind, r)
	}
	if len(m.Answer) == 0 && r.SOA > 0 {
		m.Ns = append(m.Ns, &dns.SOA{Hdr: header(".", dns.TypeSOA, r.SOA), Ns: "ns.test.", Mbox: "mail.test.", Minttl: r.SOA})
	}
	if r.Truncate && proto == "udp" {
		m.Truncated, m.Answer = true, m.Answer[:min(len(m.Answer), 1)]
	}
	if r.Instead != nil {
		return r.Instead(q, m)
	}
	return []*dns.Msg{m}
}

func (s *Server) addRecords(m *dns.Msg, name string, kind uint16, r Records) {
	for range 64 {
		if r.Alias == "" {
			break
		}
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(name, dns.TypeCNAME, r.TTL), Target: dns.Fqdn(r.Alias)})
		name = dns.Fqdn(r.Alias)
		s.mu.Lock()
		r = s.names[strings.ToLower(name)]
		s.mu.Unlock()
	}
	for _, srv := range r.SRV {
		if host, port, err := net.SplitHostPort(srv); err == nil && kind == dns.TypeSRV {
			n, _ := strconv.ParseUint(port, 10, 16)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(name, dns.TypeSRV, r.TTL), Port: uint16(n), Target: dns.Fqdn(host)})
		}
	}
	for _, a := range r.Addrs {
		switch {
		case a.Is4() && (kind == dns.TypeA || r.Lie):
			m.Answer = append(m.Answer, &dns.A{Hdr: header(name, dns.TypeA, r.TTL), A: a.AsSlice()})
		case a.Is6() && (kind == dns.TypeAAAA || r.Lie):
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, r.TTL), AAAA: a.AsSlice()})
		}
		if a.Is4() && r.Lie {
			mapped := netip.AddrFrom16(a.As16())
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, r.TTL), AAAA: mapped.AsSlice()})
		}
	}
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}
