package dial

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/aclmodel"
)

// fuzzAddrs are addresses of every kind, public and not, also inside others.
var fuzzAddrs = addrs(
	"8.8.8.8", "8.8.4.4", "1.1.1.1", "2606:4700::1", "2620:fe::fe", "2001:4860:4860::8888",
	"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1",
	"100.100.100.200", "169.254.169.254", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1",
	"::1", "::", "fe80::1", "fe80::1%lo", "fd00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
	"::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:10.1.2.3", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
	"64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:808:808::", "2001:0:808:808::80ff:fffe", "2606::5efe:7f00:1",
)

// rebinder is a backend whose answers are what the fuzzer says, a new one with
// each question: addresses of any family, nothing, no name, or a failure, at once
// or later.
type rebinder struct {
	mu   sync.Mutex
	code []byte
}

func (r *rebinder) take() byte {
	if len(r.code) == 0 {
		return 0
	}
	b := r.code[0]
	r.code = r.code[1:]
	return b
}

func (r *rebinder) Lookup(ctx context.Context, _ string, f dnscache.Family) (dnscache.Reply, error) {
	r.mu.Lock()
	kind, n := r.take(), 0
	reply := dnscache.Reply{TTL: time.Duration(kind>>4) * 20 * time.Second}
	for range kind & 3 {
		reply.Addrs = append(reply.Addrs, fuzzAddrs[int(r.take())%len(fuzzAddrs)])
		n++
	}
	late := time.Duration(kind>>2&3) * 30 * time.Millisecond
	r.mu.Unlock()
	select {
	case <-time.After(late):
	case <-ctx.Done():
		return dnscache.Reply{}, ctx.Err()
	}
	switch {
	case n == 0 && kind&4 != 0:
		return dnscache.Reply{}, errUnreachable
	case n == 0 && kind&8 != 0:
		reply.NoName = true
	}
	return reply, nil
}

func (*rebinder) CloseIdle() {}

// FuzzDialedAddresses holds what is dialed against the oracle of the access rules:
// whatever the rules, whatever DNS says and however it changes its mind between
// the calls, no address that is denied is ever dialed. The rules change between
// the calls as well, with the cache staying, as over a reload.
func FuzzDialedAddresses(f *testing.F) {
	all := make([]byte, 0, 2*len(fuzzAddrs))
	for i := range fuzzAddrs {
		all = append(all, 0x11, byte(i))
	}
	f.Add([]byte{}, []byte{0x11, 0, 0x11, 6}, byte(0), byte(0))
	f.Add([]byte{0x80 | 7, 0x80 | 8}, all, byte(1), byte(3)) // allow 0.0.0.0/0 ::/0
	f.Add([]byte{}, all, byte(4), byte(60))
	f.Add([]byte{0x80 | 9, 10}, []byte{0x13, 6, 0, 7, 0x02, 6, 7, 4, 0x04, 0x04, 0x04}, byte(2), byte(30)) // stale
	f.Add([]byte{4, 0x80}, []byte{0x0b, 28, 29, 30, 0x07, 0, 1, 2}, byte(3), byte(10))
	f.Add([]byte{0x80 | 24, 0x80 | 25, 0x80 | 26}, []byte{0x13, 32, 34, 35, 0x13, 36, 37, 38}, byte(0), byte(200))
	f.Fuzz(func(t *testing.T, ruleCode, dns []byte, mode, step byte) {
		if len(ruleCode) > 16 || len(dns) > 256 {
			return
		}
		// The bubble makes delays and times to live cost nothing.
		synctest.Test(t, func(t *testing.T) {
			backend := &rebinder{code: dns}
			d := &Dialer{
				Self:          fixture.Self([]string{"tcp/8.8.4.4:443", "tcp/:8443"}, []string{"1.1.1.1/24"}),
				Timeout:       10 * time.Second,
				FallbackDelay: 250 * time.Millisecond,
				Order:         Orders[[]string{"6", "4", "6_only", "4_only"}[mode%4]],
			}
			d.forget(backend)
			dest := target.Target{Host: []string{"example.com", "a.example.com", "example.org"}[int(mode/4)%3], Port: 443}
			if mode/16%2 == 1 {
				dest.Port = 8443
			}
			var rules []acl.Rule
			d.DialAddr = func(_ context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
				switch {
				case a.Port() != dest.Port:
					t.Errorf("port %d dialed for %v", a.Port(), dest)
				case !aclmodel.Allows(fixture.ModelRules(rules), dest, a.Addr()):
					t.Errorf("%+v: %v dialed for %v", rules, a, dest)
				case d.Self.IsSelf(a.Addr(), a.Port()) && !d.Access.Now().OpensSelf(a.Addr(), a.Port()):
					t.Errorf("%v dialed, which is our own", a)
				case d.Order.only && dnscache.FamilyOf(a.Addr()) != d.Order.First:
					t.Errorf("%v dialed, and only %s is to be used", a, d.Order.First)
				}
				return nil, errUnreachable
			}
			for call := range 8 {
				rules = nil
				for i, c := range ruleCode {
					if (i+call)%3 == 0 && call > 0 {
						continue // other rules than before
					}
					rules = append(rules, acl.Rule{Subjects: []string{aclmodel.Subjects[int(c&0x7f)%len(aclmodel.Subjects)]}, Allow: c&0x80 != 0})
				}
				access, err := acl.New(rules, nil)
				if err != nil {
					t.Fatal(err)
				}
				d.Access = fixture.FixedRules(access)
				if conn, err := d.Dial(t.Context(), dest, false); err == nil {
					t.Fatalf("connected to %v", conn)
				}
				time.Sleep(time.Duration(step) * time.Second)
			}
		})
	})
}
