package acl

import (
	"net/netip"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/aclmodel"

	"github.com/caddy-egress/egress/internal/target"
)

// aclmodel.Subjects are what FuzzAccessList puts rules together from. They overlap,
// so that the order matters.

// FuzzAccessList holds CheckAddr, and CheckTarget for literals, against an
// oracle that knows nothing of positions, tables or target.Carried.
func FuzzAccessList(f *testing.F) {
	f.Add([]byte{0x80, 9}, netip.MustParseAddr("127.0.0.1").AsSlice(), byte(0), uint16(443))
	for i, ip := range []string{
		"8.8.8.8", "10.1.2.3", "100.100.100.200", "::1", "fd00:ec2::254", "64:ff9b::7f00:1",
		"64:ff9b:1:a01:2:300::", "64:ff9b:1::10.1.2.3", "2002:a01:203::", "2001:0:808:808::80ff:fffe",
		"2606::5efe:10.1.2.3", "::ffff:127.0.0.1", "::127.0.0.1", "2606:4700::1", "2001:db8::1",
	} {
		a := netip.MustParseAddr(ip)
		f.Add([]byte{0x80 | byte(i), byte(i + 7), 0x80 | 8, 0}, a.AsSlice(), byte(i), uint16(443))
	}
	f.Fuzz(func(t *testing.T, code, rawIP []byte, host byte, port uint16) {
		ip, ok := netip.AddrFromSlice(rawIP)
		if !ok || len(code) > 16 {
			return
		}
		var rules []Rule
		for _, c := range code {
			s := aclmodel.Subjects[int(c&0x7f)%len(aclmodel.Subjects)]
			rules = append(rules, Rule{Subjects: []string{s}, Allow: c&0x80 != 0})
		}
		l, err := New(rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		hosts := []string{"example.com", "a.example.com", "badexample.com", "example.org", ""}
		tgt := target.Target{Host: hosts[int(host)%len(hosts)], Port: port}
		if tgt.Host == "" {
			tgt.Addr = ip.Unmap()
			tgt.Host = tgt.Addr.String()
		}

		want := aclmodel.Allows(modelRules(rules), tgt, ip)
		if got := l.CheckAddr(tgt, ip) == nil; got != want {
			t.Fatalf("%+v, %v to %v: allowed %t, the oracle says %t", rules, tgt, ip, got, want)
		}
		if tgt.IsAddr() {
			if got := l.CheckTarget(tgt) == nil; got != want {
				t.Fatalf("%+v, literal %v: allowed %t, the oracle says %t", rules, tgt, got, want)
			}
		} else if want && l.CheckTarget(tgt) != nil {
			t.Fatalf("%+v: %v is refused, but %v is allowed for it", rules, tgt, ip)
		}
	})
}

// modelRules are rules as the model has them.
func modelRules(rules []Rule) []aclmodel.Rule {
	var model []aclmodel.Rule
	for _, r := range rules {
		model = append(model, aclmodel.Rule{Subject: r.Subjects[0], Allow: r.Allow})
	}
	return model
}
