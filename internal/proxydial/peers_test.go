package proxydial

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// TestPeers: the programs that people run, with what makes them differ.
func TestPeers(t *testing.T) {
	origin := echoOrigin(t)
	nobody := Target{Host: "127.0.0.1", Port: 1, Addr: netip.MustParseAddr("127.0.0.1")} // refuses
	peerTLS := func(p *peers.Peer) *tls.Config { return &tls.Config{RootCAs: p.RootCAs, ServerName: "localhost"} }
	for _, tc := range []struct {
		name     string
		start    func(t *testing.T) (*peers.Peer, Config)
		protocol string
		refusal  string // what a refusing destination becomes; empty: not asked
		wrong    string // what wrong credentials become; empty: there are none
	}{
		{"squid", func(t *testing.T) (*peers.Peer, Config) {
			p := peertest.Squid(t, peers.SquidOptions{User: "bob", Password: "pass word"})
			return p, Config{Scheme: HTTP, Authenticate: true, User: "bob", Password: "pass word"}
		}, "http/1.1", "reply: status 503", "auth: status 407"},
		{"squid over TLS", func(t *testing.T) (*peers.Peer, Config) {
			p := peertest.Squid(t, peers.SquidOptions{TLS: true})
			return p, Config{Scheme: HTTPS, TLS: peerTLS(p)}
		}, "http/1.1", "reply: status 503", ""},
		{"tinyproxy", func(t *testing.T) (*peers.Peer, Config) {
			return peertest.Tinyproxy(t, peers.TinyproxyOptions{User: "bob", Password: "secret"}), Config{Scheme: HTTP, Authenticate: true, User: "bob", Password: "secret"}
		}, "http/1.1", "reply: status 500", "auth: status 401"},
		{"nghttpx", func(t *testing.T) (*peers.Peer, Config) {
			p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
			return p, Config{Scheme: HTTPS, TLS: peerTLS(p)}
		}, "h2", "reply: status 503", ""},
		{"nghttpx, HTTP/1.1 only", func(t *testing.T) (*peers.Peer, Config) {
			p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
			return p, Config{Scheme: HTTPS, TLS: peerTLS(p), DisableHTTP2: true}
		}, "http/1.1", "reply: status 503", ""},
		{"microsocks", func(t *testing.T) (*peers.Peer, Config) {
			return peertest.Microsocks(t, peers.MicrosocksOptions{User: "bob", Password: "secret"}), Config{Scheme: SOCKS5, Authenticate: true, User: "bob", Password: "secret"}
		}, "socks5", "reply: socks: connection refused", "auth: socks: user and password refused"},
		{"microsocks without a password", func(t *testing.T) (*peers.Peer, Config) {
			return peertest.Microsocks(t, peers.MicrosocksOptions{}), Config{Scheme: SOCKS5H}
		}, "socks5", "reply: socks: connection refused", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			peer, cfg := tc.start(t)
			cfg.Dial = dialTo(peer.Addr)
			d := newDialer(t, cfg)
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() { exchangeBytes(t, d, origin, tc.protocol, 200_000+i) })
			}
			all.Wait()
			if _, err := d.DialTunnel(testContext(t), nobody, Client{}); err == nil || err.Error() != "upstream proxy: "+tc.refusal {
				t.Errorf("refused: %v, want %s", err, tc.refusal)
			}
			exchangeBytes(t, d, origin, tc.protocol, 10)
			if tc.wrong != "" {
				cfg.Password = "wrong"
				_, err := newDialer(t, cfg).DialTunnel(testContext(t), origin, Client{})
				if err == nil || err.Error() != "upstream proxy: "+tc.wrong || wantError(t, err).Stage != StageAuth {
					t.Errorf("wrong credentials: %v, want %s", err, tc.wrong)
				}
			}
		})
	}
}

// exchangeBytes sends n bytes through a new tunnel, ends its direction, and reads
// them back until the end.
func exchangeBytes(t *testing.T, d *Dialer, to Target, protocol string, n int) {
	tn, err := d.DialTunnel(testContext(t), to, Client{})
	if err != nil {
		t.Error(err)
		return
	}
	defer tn.Conn.Close()
	_ = tn.Conn.SetDeadline(time.Now().Add(patience))
	if tn.Protocol != protocol {
		t.Errorf("%s, want %s", tn.Protocol, protocol)
	}
	sent := strings.Repeat("0123456789", n/10)
	go func() { _, _ = io.WriteString(tn.Conn, sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(io.MultiReader(strings.NewReader(string(tn.Early)), tn.Conn), got); err != nil || string(got) != sent {
		t.Errorf("%d bytes differ: %v", len(got), err)
	}
}

// TestSquidEvidence: what squid says of a name that does not exist.
func TestSquidEvidence(t *testing.T) {
	p := peertest.Squid(t, peers.SquidOptions{Config: []string{"dns_nameservers 127.0.0.1", "dns_timeout 1 second", "dns_retransmit_interval 1 second"}})
	_, err := newDialer(t, Config{Scheme: HTTP, Dial: dialTo(p.Addr)}).DialTunnel(testContext(t), Target{Host: "nowhere.invalid", Port: 443}, Client{})
	r, ok := errors.AsType[*ReplyError](err)
	if !ok {
		t.Fatal(err)
	}
	if r.Status < 500 || !strings.HasPrefix(r.SquidError, "ERR_") || !r.Evident() {
		t.Errorf("%+v", r.Reply)
	}
}

// TestSquidProxyProtocol: squid takes the client from the header.
func TestSquidProxyProtocol(t *testing.T) {
	p := peertest.Squid(t, peers.SquidOptions{ProxyProtocol: true, Config: []string{"acl stranger src 192.0.2.7 2001:db8::7", "http_access deny stranger"}})
	origin := echoOrigin(t)
	for _, version := range []int{1, 2} {
		d := newDialer(t, Config{Scheme: HTTP, ProxyProtocol: version, Dial: dialTo(p.Addr)})
		for client, want := range map[string]string{
			"192.0.2.7:1": "upstream proxy: reply: status 403", "[2001:db8::7]:1": "upstream proxy: reply: status 403",
			"192.0.2.8:1": "", "[2001:db8::8]:1": "", "": "",
		} {
			var c Client
			if client != "" {
				c.Source = netAddrPort(client)
			}
			tn, err := d.DialTunnel(testContext(t), origin, c)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				tn.Conn.Close()
			}
			if got != want {
				t.Errorf("version %d, client %s: %q, want %q", version, client, got, want)
			}
		}
	}
}

// TestNghttpxStreamLimit is scenario 14 with nghttpx.
func TestNghttpxStreamLimit(t *testing.T) {
	p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr, MaxStreams: 2})
	d := newDialer(t, Config{Scheme: HTTPS, TLS: &tls.Config{RootCAs: p.RootCAs, ServerName: "localhost"}, Dial: dialTo(p.Addr)})
	origin := echoOrigin(t)
	for range 5 {
		tn, err := d.DialTunnel(testContext(t), origin, Client{})
		if err != nil {
			t.Fatal(err)
		}
		defer tn.Conn.Close()
		echo(t, tn, "hello")
	}
	if got := d.Stats(); got != (Stats{Conns: 3, Streams: 5}) {
		t.Errorf("%+v", got)
	}
}

// TestNghttpxPaused: a stopped proxy is found dead, and its tunnels end.
func TestNghttpxPaused(t *testing.T) {
	p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
	d := newDialer(t, Config{
		Scheme: HTTPS, TLS: &tls.Config{RootCAs: p.RootCAs, ServerName: "localhost"}, Dial: dialTo(p.Addr),
		PingInterval: 20 * time.Millisecond, PingTimeout: time.Second,
	})
	tn, err := d.DialTunnel(testContext(t), echoOrigin(t), Client{})
	if err != nil {
		t.Fatal(err)
	}
	defer tn.Conn.Close()
	echo(t, tn, "hello")
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := tn.Conn.Read(make([]byte, 1)); !errors.Is(err, errPingTimeout) {
		t.Error(err)
	}
}

// TestNghttpxEndOfTheOrigin: what the origin said before its end arrives, and the
// end is one.
func TestNghttpxEndOfTheOrigin(t *testing.T) {
	p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
	d := newDialer(t, Config{Scheme: HTTPS, TLS: &tls.Config{RootCAs: p.RootCAs, ServerName: "localhost"}, Dial: dialTo(p.Addr)})
	f := listen(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_, _ = io.WriteString(c, "good-bye")
	})
	a := netAddrPort(f.addr)
	tn, err := d.DialTunnel(testContext(t), Target{Host: "127.0.0.1", Port: a.Port()}, Client{})
	if err != nil {
		t.Fatal(err)
	}
	defer tn.Conn.Close()
	_ = tn.Conn.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(tn.Conn, "hello")
	if b, err := io.ReadAll(tn.Conn); err != nil || string(b) != "good-bye" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestKilledPeer: a proxy that is killed ends its tunnels with an error.
func TestKilledPeer(t *testing.T) {
	p := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr})
	d := newDialer(t, Config{Scheme: HTTPS, TLS: &tls.Config{RootCAs: p.RootCAs, ServerName: "localhost"}, Dial: dialTo(p.Addr)})
	tn, err := d.DialTunnel(testContext(t), echoOrigin(t), Client{})
	if err != nil {
		t.Fatal(err)
	}
	defer tn.Conn.Close()
	p.Kill()
	if _, err := tn.Conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("%v looks like an end", err)
	}
	_, err = d.DialTunnel(testContext(t), echoOrigin(t), Client{})
	if e := wantError(t, err); e.Stage != StageDial || e.Sent {
		t.Errorf("%v (%+v)", err, e)
	}
}
