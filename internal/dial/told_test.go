package dial

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/target"
)

// An upstream is told the addresses that may be reached, each once, those of the two
// families by turn, and last those that it could not reach lately.
func TestTold(t *testing.T) {
	v4, v6 := addrs("192.0.2.1", "10.0.0.1", "192.0.2.2"), addrs("2001:db8::1", "2001:db8::2")
	for _, tc := range []struct {
		prefer string
		failed []netip.Addr
		want   []netip.Addr
	}{
		{"6", nil, addrs("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")},
		{"4", nil, addrs("192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2")},
		{"4_only", nil, addrs("192.0.2.1", "192.0.2.2")},
		{"6", addrs("2001:db8::1"), addrs("2001:db8::2", "192.0.2.1", "192.0.2.2", "2001:db8::1")},
		{"6", v6, addrs("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")},
	} {
		d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
		d.Order = Orders[tc.prefer]
		d.forget(split{v4, v6})
		d.warm("origin.test")
		failed := new(Through)
		for _, a := range tc.failed {
			failed.Failed(netip.AddrPortFrom(a, 443))
		}
		var got []netip.Addr
		told := d.Tell(target.Target{Host: "origin.test", Port: 443}, failed)
		for {
			a, err := told.Next(t.Context())
			if err != nil {
				break
			}
			got = append(got, a)
			if told.Addr() != a || told.Count() != len(got) {
				t.Errorf("%v is told last, %d in all", told.Addr(), told.Count())
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("prefer_ip %s, failed %v: told %v, want %v", tc.prefer, tc.failed, got, tc.want)
		}
	}
}

// What an upstream could not reach is told last for a while, to that upstream; it says
// nothing about what is dialed directly.
func TestTold_Remembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDialer(t, nil, "allow 192.0.2.0/24 2001:db8::/32")
		d.Order = Orders["6"]
		d.forget(split{addrs("192.0.2.1"), addrs("2001:db8::1")})
		d.warm("origin.test")
		failed := new(Through)
		first := func(failed *Through) (*Told, string) {
			t.Helper()
			told := d.Tell(target.Target{Host: "origin.test", Port: 443}, failed)
			a, err := told.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return told, a.String()
		}
		told, a := first(failed)
		if a != "2001:db8::1" {
			t.Errorf("first %s", a)
		}
		failed.Failed(netip.AddrPortFrom(told.Addr(), 443))
		if _, a := first(failed); a != "192.0.2.1" {
			t.Errorf("behind a failure %s", a)
		}
		if _, a := first(new(Through)); a != "2001:db8::1" || d.Names.failed.Has(netip.MustParseAddrPort("[2001:db8::1]:443")) {
			t.Error("another upstream, or a dial, is kept from the address")
		}
		told.Reached(told.Addr())
		if _, a := first(failed); a != "2001:db8::1" {
			t.Errorf("behind a success %s", a)
		}
		failed.Failed(netip.AddrPortFrom(told.Addr(), 443))
		time.Sleep(failedFor)
		d.warm("origin.test")
		if _, a := first(failed); a != "2001:db8::1" {
			t.Errorf("later %s", a)
		}
	})
}

// What could not be dialed from here says nothing about what upstreams are told.
func TestJudgeTold(t *testing.T) {
	d := newDialer(t, nil, "allow 192.0.2.0/24")
	d.forget(split{addrs("192.0.2.1", "192.0.2.2"), nil})
	d.Names.failed.Mark(netip.MustParseAddrPort("192.0.2.1:443"))
	for _, tc := range []struct {
		judge func(context.Context, target.Target, FamilyOrder) ([]Judged, error)
		first string
	}{{d.Judge, "192.0.2.2"}, {func(ctx context.Context, dest target.Target, order FamilyOrder) ([]Judged, error) {
		return d.JudgeTold(ctx, dest, order, runHere(true))
	}, "192.0.2.1"}} {
		got, err := tc.judge(t.Context(), target.Target{Host: "origin.test", Port: 443}, Orders["4"])
		if err != nil || len(got) != 2 || got[0].Addr.String() != tc.first || got[0].FailedLately {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// An address of the other family that nobody tells is not waited for longer than the
// attempt has.
func TestTold_SilentFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until questions that nobody waits for are over
		d := newDialer(t, nil, "allow 192.0.2.0/24")
		d.Order = Orders["6"]
		d.forget(&delayed{{0, addrs("192.0.2.1", "192.0.2.2"), nil}, {time.Hour, nil, nil}})
		told := d.Tell(target.Target{Host: "origin.test", Port: 443}, new(Through))
		begin := time.Now()
		for _, want := range []string{"192.0.2.1", "192.0.2.2"} {
			if a, err := told.Next(t.Context()); err != nil || a.String() != want {
				t.Errorf("%v, %v", a, err)
			}
		}
		if took := time.Since(begin); took > 2*resolutionDelay {
			t.Errorf("after %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a, err := told.Next(ctx); err == nil {
			t.Errorf("told %s again", a)
		}
		if took := time.Since(begin); took > time.Second+2*resolutionDelay {
			t.Errorf("after %s", took)
		}
	})
}

// localhost, and all names below it, mean loopback to whoever resolves them (RFC 6761
// §6.3), and fixed names what is written: they are judged by that. Other names are not.
func TestCheckUnresolved_RFC6761_6_3(t *testing.T) {
	for _, tc := range []struct {
		rules, host string
		denied      bool
	}{
		{"deny 192.0.2.77", "origin.test", false},
		{"deny 192.0.2.77", "localhost", true},
		{"deny 192.0.2.77", "a.b.localhost", true},
		{"deny 192.0.2.77", "notlocalhost", false},
		{"deny 192.0.2.77", "localhost.test", false},
		{"allow localhost", "localhost", true}, // a name opens no address
		{"allow 127.0.0.0/8", "localhost", true},
		{"allow 127.0.0.0/8 ::1", "localhost", false},
		{"allow 127.0.0.0/8 ::1", "a.localhost", false},
		{"deny 192.0.2.77", "inside.test", true},
		{"allow 10.0.0.0/8", "inside.test", false},
		{"deny 192.0.2.77", "outside.test", false},
		{"deny 8.8.8.8", "outside.test", true},
		{"deny 192.0.2.77", "both.test", true},
		{"deny 192.0.2.77", "10.1.2.3", true},
	} {
		d := newDialer(t, nil, tc.rules)
		d.fix(map[string][]netip.Addr{
			"inside.test": addrs("10.1.2.3"), "outside.test": addrs("8.8.8.8"), "both.test": addrs("8.8.8.8", "fd00::1"),
		})
		dest := target.Target{Host: tc.host, Port: 443}
		if a, err := netip.ParseAddr(tc.host); err == nil {
			dest.Addr = a
		}
		if err := d.CheckUnresolved(t.Context(), dest, nil); err != nil != tc.denied {
			t.Errorf("%s, %s: %v", tc.rules, tc.host, err)
		}
		if err := d.CheckNames(t.Context(), dest, nil); tc.denied && err == nil {
			t.Errorf("%s, %s: allowed where names are resolved", tc.rules, tc.host)
		}
	}
}

// A name with more addresses than are looked at is refused where all of them must be
// allowed.
func TestCheckNames_More(t *testing.T) {
	var many []netip.Addr
	for i := range 40 {
		many = append(many, netip.MustParseAddr(fmt.Sprint("192.0.2.", i+1)))
	}
	d := newDialer(t, nil, "allow 192.0.2.0/24")
	for n, denied := range map[int]bool{1: false, 32: false, 33: true, 40: true} {
		d.forget(split{many[:n], nil})
		if err := d.CheckNames(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil); err != nil != denied {
			t.Errorf("%d addresses: %v", n, err)
		}
		d.fix(map[string][]netip.Addr{"origin.test": many[:n]})
		if err := d.CheckUnresolved(t.Context(), target.Target{Host: "origin.test", Port: 443}, nil); err != nil != denied {
			t.Errorf("%d fixed addresses: %v", n, err)
		}
	}
}
