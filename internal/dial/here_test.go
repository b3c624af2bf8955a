package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/target"
)

type runHere bool

func (r runHere) RunHere(context.Context) bool { return bool(r) }

// What means a listener of this process is refused where an upstream runs here, and left to
// those that run elsewhere: there, loopback is another machine's.
func TestCheckUnresolved_Self(t *testing.T) {
	here := self.New(self.Config{
		Usage: func(network, addr string) int {
			if network == "tcp" && addr == "127.0.0.1:2019" {
				return 1
			}
			return 0
		},
		Active:     func() <-chan struct{} { return nil },
		Sockets:    func() ([]listening.Socket, bool) { return nil, false },
		Interfaces: func() ([]net.Addr, error) { return nil, errors.New("unknown") },
	})
	for _, tc := range []struct {
		rules, host string
		port        uint16
		here        runHere
		loop        bool
	}{
		{"allow 127.0.0.0/8 ::1", "127.0.0.1", 2019, true, true},
		{"allow 127.0.0.0/8 ::1", "localhost", 2019, true, true},
		{"allow 127.0.0.0/8 ::1", "a.localhost", 2019, true, true},
		{"allow 127.0.0.0/8 ::1", "fixed.test", 2019, true, true},
		{"allow 127.0.0.0/8 ::1", "localhost", 2020, true, false},
		{"allow 127.0.0.0/8 ::1", "127.0.0.1", 2019, false, false},
		{"allow 127.0.0.0/8 ::1", "localhost", 2019, false, false},
		{"allow 127.0.0.1:2019 127.0.0.0/8 ::1", "localhost", 2019, true, false},
	} {
		d := newDialer(t, nil, tc.rules)
		d.Self = here
		d.fix(map[string][]netip.Addr{"fixed.test": addrs("127.0.0.1")})
		dest := target.Target{Host: tc.host, Port: tc.port}
		if a, err := netip.ParseAddr(tc.host); err == nil {
			dest.Addr = a
		}
		err := d.CheckUnresolved(t.Context(), dest, tc.here)
		if loop := failure.Of(err) == failure.Loop; (err != nil) != tc.loop || loop != tc.loop {
			t.Errorf("%s, %s:%d, here %t: %v", tc.rules, tc.host, tc.port, tc.here, err)
		}
		if dest.IsAddr() { // and that is what is told of it
			judged, err := d.JudgeTold(t.Context(), dest, d.Order, tc.here)
			if len(judged) != 1 || (judged[0].Err != nil) != tc.loop {
				t.Errorf("%s, %s:%d, here %t: judged %v, %v", tc.rules, tc.host, tc.port, tc.here, judged, err)
			}
		}
		if err := d.CheckUnresolved(t.Context(), dest, nil); err != nil {
			t.Errorf("%s, where it does not matter: %v", tc.host, err)
		}
	}
}

// What cannot be found out of an upstream's name is taken for this machine.
func TestIsHere(t *testing.T) {
	d := newDialer(t, nil, "deny 192.0.2.77")
	d.fix(map[string][]netip.Addr{"here.test": addrs("192.0.2.1", "127.0.0.1"), "elsewhere.test": addrs("192.0.2.1")})
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3": true, "::1": true, "0.0.0.0": true, "::ffff:127.0.0.1": true, "192.0.2.1": false, "2001:db8::1": false,
		"localhost": true, "LOCALHOST.": true, "a.localhost": true, "here.test": true, "elsewhere.test": false,
		"bad name": true,
	} {
		if got := d.IsHere(t.Context(), host); got != want {
			t.Errorf("%s: %t", host, got)
		}
	}
}
