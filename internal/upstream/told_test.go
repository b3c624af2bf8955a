package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// socksServer is a SOCKS5 proxy that gives each address an answer of its own.
type socksServer struct {
	answers map[string]string // by address; "" closes the connection, "-" says nothing

	mu     sync.Mutex
	asked  []string
	broken func(context.Context) error // instead of a connection
}

const socksSuccess = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"

// refusal is a reply that refuses.
func refusal(code proxydial.SOCKSCode) string {
	return "\x05" + string(rune(code)) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

func (s *socksServer) dial(ctx context.Context) (net.Conn, error) {
	if s.broken != nil {
		return nil, s.broken(ctx)
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		b := make([]byte, 32)
		if _, err := io.ReadFull(far, b[:3]); err != nil {
			return
		}
		_, _ = io.WriteString(far, "\x05\x00")
		if _, err := io.ReadFull(far, b[:4]); err != nil {
			return
		}
		n := net.IPv4len
		if b[3] == 4 {
			n = net.IPv6len
		}
		if _, err := io.ReadFull(far, b[:n+2]); err != nil {
			return
		}
		a, _ := netip.AddrFromSlice(b[:n])
		s.mu.Lock()
		s.asked = append(s.asked, a.String())
		answer := s.answers[a.String()]
		s.mu.Unlock()
		if answer == "-" {
			_, _ = io.Copy(io.Discard, far)
			return
		}
		_, _ = io.WriteString(far, answer)
		if answer == socksSuccess {
			_, _ = io.Copy(io.Discard, far)
		}
	}()
	return near, nil
}

func (s *socksServer) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.asked
	s.asked = nil
	return list
}

// member makes the server the only member of a group, as a socks5 upstream.
func (s *socksServer) member(t *testing.T, g *Group) *Member {
	t.Helper()
	m := g.Members()[0]
	m.Spec.Addr.Scheme = SOCKS5
	m.Conns = new(Conns)
	m.Conns.dial = s.dial
	var err error
	if m.Conns.Dialer, err = proxydial.New(proxydial.Config{Scheme: proxydial.SOCKS5, Dial: s.dial}); err != nil {
		t.Fatal(err)
	}
	return m
}

// fixedNames is a dialer that knows the addresses of origin.test.
func fixedNames(addrs ...string) *dial.Dialer {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	cache := dnscache.New(dnscache.Config{Backend: nobody{}, Static: map[string][]netip.Addr{"origin.test": list}})
	return &dial.Dialer{Timeout: time.Minute, Order: dial.Orders["6"], Names: dial.NewNames(cache)}
}

type nobody struct{}

func (nobody) Lookup(context.Context, string, dnscache.Family) (dnscache.Reply, error) {
	return dnscache.Reply{}, errors.New("nobody to ask")
}
func (nobody) CloseIdle() {}

// An upstream that cannot reach one address of a destination, or does not allow it, is told
// others, of the other family first, up to three. What it says of itself is no reason for
// that.
func TestDialTunnel_OtherAddress(t *testing.T) {
	const six, four, five, last = "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"
	unreachable := refusal(proxydial.SOCKSHostUnreachable)
	for _, tc := range []struct {
		name    string
		answers map[string]string
		asked   []string
		again   string // what the next request is told first
		code    proxydial.SOCKSCode
	}{
		{"the first", map[string]string{six: socksSuccess}, []string{six}, six, 0},
		{"the other family", map[string]string{six: unreachable, four: socksSuccess}, []string{six, four}, four, 0},
		{"network unreachable", map[string]string{six: refusal(proxydial.SOCKSNetUnreachable), four: socksSuccess}, []string{six, four}, four, 0},
		{"refused", map[string]string{six: refusal(proxydial.SOCKSRefused), four: socksSuccess}, []string{six, four}, five, 0},
		{"expired", map[string]string{six: refusal(proxydial.SOCKSTTLExpired), four: socksSuccess}, []string{six, four}, four, 0},
		{"not supported", map[string]string{six: refusal(proxydial.SOCKSAddrTypeNotSupported), four: socksSuccess}, []string{six, four}, four, 0},
		{"general failure", map[string]string{six: refusal(proxydial.SOCKSGeneralFailure), four: socksSuccess}, []string{six, four}, four, 0},
		{"closed", map[string]string{six: "", four: socksSuccess}, []string{six, four}, four, 0},
		{"the third", map[string]string{six: unreachable, four: unreachable, five: socksSuccess}, []string{six, four, five}, five, 0},
		{"none", map[string]string{six: unreachable, four: unreachable, five: unreachable, last: socksSuccess}, []string{six, four, five}, last, proxydial.SOCKSHostUnreachable},
		{"one is refused", map[string]string{six: unreachable, four: refusal(proxydial.SOCKSRefused), five: unreachable}, []string{six, four, five}, last, proxydial.SOCKSRefused},
		{"not allowed", map[string]string{six: refusal(proxydial.SOCKSNotAllowed)}, []string{six, four, five}, last, proxydial.SOCKSNotAllowed},
		{"not allowed later", map[string]string{six: unreachable, four: refusal(proxydial.SOCKSNotAllowed)}, []string{six, four, five}, last, proxydial.SOCKSNotAllowed},
		{"one is not allowed", map[string]string{six: refusal(proxydial.SOCKSNotAllowed), four: socksSuccess}, []string{six, four}, four, 0},
		{"no CONNECT", map[string]string{six: refusal(proxydial.SOCKSCommandNotSupported)}, []string{six}, six, proxydial.SOCKSCommandNotSupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &socksServer{answers: tc.answers}
			m := s.member(t, mustNew(t, Config{Static: []*Spec{{}}}))
			d := fixedNames(six, five, four, last)
			dest := target.Target{Host: "origin.test", Port: 443}
			open := func(ctx context.Context) (*dial.Told, error) {
				told := d.TellUnchecked(dest, &m.Conns.through)
				to := proxydial.Target{Host: dest.Host, Port: dest.Port}
				var err error
				if to.Addr, err = told.Next(ctx); err != nil {
					t.Fatal(err)
				}
				tunnel, err := m.DialTunnel(ctx, to, told, proxydial.Client{})
				if err == nil {
					_ = tunnel.Conn.Close()
				}
				return told, err
			}
			told, err := open(t.Context())
			if asked := s.take(); !slices.Equal(asked, tc.asked) || told.Addr().String() != tc.asked[len(tc.asked)-1] {
				t.Errorf("asked for %v", asked)
			}
			if socks, _ := errors.AsType[*proxydial.SOCKSError](err); (err != nil) != (tc.code != 0) || err != nil && (socks == nil || socks.Code != tc.code) {
				t.Errorf("%v", err)
			}
			_, _ = open(t.Context())
			if asked := s.take(); len(asked) == 0 || asked[0] != tc.again {
				t.Errorf("the next request asks for %v", asked)
			}
		})
	}
}

// A check passes over any address of its target that the upstream reaches.
func TestCheck_OtherAddress(t *testing.T) {
	dest := target.Target{Host: "origin.test", Port: 443}
	g := mustNew(t, Config{Static: []*Spec{{}}, Checks: &Checks{
		Type: CheckConnect, Interval: time.Hour, Timeout: time.Minute, Passes: 1, Fails: 1,
		Targets: []CheckTarget{{Text: "origin.test:443", Dest: dest}},
	}})
	s := &socksServer{answers: map[string]string{"2001:db8::1": refusal(proxydial.SOCKSHostUnreachable), "192.0.2.1": socksSuccess}}
	m := s.member(t, g)
	m.Conns.tell = fixedNames("2001:db8::1", "192.0.2.1").TellUnchecked
	ctx, err := g.lookUpTarget(t.Context(), &m.ref, "origin.test:443")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.check(ctx, &m.ref, "origin.test:443"); err != nil {
		t.Error(err)
	}
	if asked := s.take(); !slices.Equal(asked, []string{"2001:db8::1", "192.0.2.1"}) {
		t.Errorf("asked for %v", asked)
	}
}

// A group knows who resolves names for it, as its members are now.
func TestGroup_Resolution(t *testing.T) {
	spec := func(scheme string, port uint16) *Spec {
		return &Spec{Weight: 1, Addr: Address{Scheme: scheme, Host: "127.0.0.1", Port: port}}
	}
	g := mustNew(t, Config{Static: []*Spec{{}}})
	for _, tc := range []struct {
		specs []*Spec
		want  Resolution
	}{
		{[]*Spec{spec(SOCKS5, 1), spec(SOCKS5, 2)}, Here},
		{[]*Spec{spec(SOCKS5H, 1), spec(HTTP, 2)}, ByUpstream},
		{[]*Spec{spec(SOCKS5, 1), spec(SOCKS5H, 2)}, ByBoth},
		{nil, ByNobody},
	} {
		if err := g.replace(&g.static, tc.specs); err != nil {
			t.Fatal(err)
		}
		if got := g.Resolution(); got != tc.want {
			t.Errorf("%d, want %d", got, tc.want)
		}
	}
}
