package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// Every address of an answer is checked, and only those that pass are dialed.
func TestDialChecksEveryAddress(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	for _, tc := range []struct {
		name   string
		rules  []string
		answer []netip.Addr
		reach  string // the address that is connected to, "" for none
		want   *failure.Failure
	}{
		{"denied by default", nil, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"allowed", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.2"), "127.0.0.2", nil},
		{"denied, then allowed", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.1", "127.0.0.2"), "127.0.0.2", nil},
		{"allowed, then denied", []string{"allow 127.0.0.2/32"}, addrs("127.0.0.2", "127.0.0.1", "127.0.0.3"), "127.0.0.2", nil},
		{"all denied", []string{"allow 127.0.0.9/32"}, addrs("127.0.0.1", "127.0.0.2", "127.0.0.3"), "", failure.DeniedAddress},
		{"denied by a rule", []string{"deny 127.0.0.2", "allow 127.0.0.0/8"}, addrs("127.0.0.2"), "", failure.DeniedAddress},
		{"allowed by name only", []string{"allow origin.test"}, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"allow all", []string{"allow all"}, addrs("127.0.0.1"), "", failure.DeniedAddress},
		{"IPv4-mapped, denied", nil, addrs("::ffff:127.0.0.1"), "", failure.DeniedAddress},
		{"IPv4-mapped, allowed", []string{"allow 127.0.0.2/32"}, addrs("::ffff:127.0.0.2"), "127.0.0.2", nil},
		{"IPv4-mapped, mixed", []string{"allow 127.0.0.2/32"}, addrs("::ffff:127.0.0.1", "::ffff:127.0.0.2"), "127.0.0.2", nil},
		{"NAT64 of loopback", []string{"allow 64:ff9b::/96"}, addrs("64:ff9b::7f00:1"), "", failure.DeniedAddress},
		{"unspecified", nil, addrs("0.0.0.0", "::"), "", failure.DeniedAddress},
		{"invalid", nil, []netip.Addr{{}}, "", failure.NoName},
		{"link-local with a zone", nil, addrs("fe80::1%lo"), "", failure.DeniedAddress},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resolver := &answers{list: [][]netip.Addr{tc.answer}}
			conn, err := newDialer(t, resolver.resolve, tc.rules...).Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
			if tc.want != nil {
				if err == nil || failure.Of(err) != tc.want {
					t.Errorf("error %v, want %s", err, tc.want.Type)
				}
			} else if err != nil {
				t.Error(err)
			}
			if conn != nil && err == nil {
				if got := RemoteAddr(conn).String(); got != tc.reach {
					t.Errorf("connected to %s", got)
				}
				conn.Close()
			}
			for host, ln := range listeners {
				want := 0
				if host == tc.reach {
					want = 1
				}
				if n := dialedTimes(t, ln); n != want {
					t.Errorf("%s was dialed %d times, want %d", host, n, want)
				}
			}
			if n := resolver.asked.Load(); n != 1 {
				t.Errorf("resolved %d times", n)
			}
		})
	}
}

// A literal address is checked and is not resolved.
func TestDialLiteralAddress(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	d := newDialer(t, func(context.Context, string) ([]netip.Addr, error) {
		t.Error("resolved")
		return nil, nil
	}, "allow 127.0.0.2/32")
	literal := func(host string) target.Target {
		return fixture.Target(t, net.JoinHostPort(host, fmt.Sprint(port)))
	}
	conn, err := d.Dial(t.Context(), literal("127.0.0.2"), false)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, host := range []string{"127.0.0.1", "::ffff:127.0.0.1", "2130706433", "0.0.0.0", "::1"} {
		if conn, err := d.Dial(t.Context(), literal(host), false); err == nil || failure.Of(err) != failure.DeniedAddress {
			t.Errorf("%s: %v", host, err)
			if conn != nil {
				conn.Close()
			}
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("127.0.0.1 was dialed %d times", n)
	}
}

// A name that changes its address between check and dial gains nothing: there
// is one look-up only, and each dial has its own check.
func TestDialRebinding(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2")
	// 127.0.0.2 is what a public address is elsewhere.
	resolver := &answers{list: [][]netip.Addr{addrs("127.0.0.2"), addrs("127.0.0.1")}}
	d := newDialer(t, resolver.resolve, "allow 127.0.0.2/32")
	dest := target.Target{Host: "rebinding.test", Port: port}
	conn, err := d.Dial(t.Context(), dest, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n := resolver.asked.Load(); n != 1 {
		t.Errorf("resolved %d times for one dial", n)
	}
	if got := RemoteAddr(conn).String(); got != "127.0.0.2" {
		t.Errorf("connected to %s", got)
	}
	for range 3 {
		d.forget(allAtOnce(resolver.resolve))
		if _, err := d.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.DeniedAddress {
			t.Errorf("second answer: %v", err)
		}
	}
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 0 {
		t.Errorf("127.0.0.1 was dialed %d times", n)
	}
}

// An address on which this process listens is not dialed, unless a rule names
// it with its port.
func TestDialSelf(t *testing.T) {
	port, listeners := listenAt(t, "127.0.0.1")
	own := fmt.Sprintf("127.0.0.1:%d", port)
	for _, tc := range []struct {
		rule   string
		answer string
		want   *failure.Failure
	}{
		{"allow 127.0.0.0/8", "127.0.0.1", failure.Loop},
		{"allow 127.0.0.1", "127.0.0.1", failure.Loop},
		{"allow 127.0.0.1", "::ffff:127.0.0.1", failure.Loop},
		{"allow 0.0.0.0/0", "0.0.0.0", failure.Loop},
		{"allow " + own, "127.0.0.1", nil},
	} {
		t.Run(tc.rule+" "+tc.answer, func(t *testing.T) {
			d := newDialer(t, (&answers{list: [][]netip.Addr{addrs(tc.answer)}}).resolve, tc.rule)
			d.Self = fixture.Self([]string{"tcp/" + own}, nil)
			want := 0
			conn, err := d.Dial(t.Context(), target.Target{Host: "self.test", Port: port}, false)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				want = 1
			} else if err == nil || failure.Of(err) != tc.want {
				t.Errorf("error %v", err)
			}
			if n := dialedTimes(t, listeners["127.0.0.1"]); n != want {
				t.Errorf("dialed %d times", n)
			}
		})
	}
}

func TestDialRefused(t *testing.T) {
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	dest := fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if _, err := d.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.Refused {
		t.Errorf("%v", err)
	}
}

// An address that refuses is followed by the next at once, without the delay.
func TestDialNextAfterRefusal(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1")
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.2", "127.0.0.3", "127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
	d.FallbackDelay = time.Hour
	conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := dialedTimes(t, listeners["127.0.0.1"]); n != 1 {
		t.Errorf("dialed %d times", n)
	}
}

func TestDialTimeout(t *testing.T) {
	port, _ := listenAt(t, "127.0.0.1")
	for _, answer := range [][]netip.Addr{addrs("127.0.0.1"), addrs("127.0.0.1", "127.0.0.2")} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{answer}}).resolve, "allow 127.0.0.0/8")
		d.warm("origin.test")
		d.Timeout = time.Nanosecond
		_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
		if err == nil || failure.Of(err) != failure.DialTimeout {
			t.Errorf("%v: %v", answer, err)
		}
	}
}

func TestDialCanceled(t *testing.T) {
	port, _ := listenAt(t, "127.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, answer := range [][]netip.Addr{addrs("127.0.0.1"), addrs("127.0.0.1", "127.0.0.2")} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{answer}}).resolve, "allow 127.0.0.0/8")
		_, err := d.Dial(ctx, target.Target{Host: "origin.test", Port: port}, false)
		if err == nil || failure.Of(err) != failure.Canceled {
			t.Errorf("%v: %v", answer, err)
		}
	}
}
