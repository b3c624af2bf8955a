package acl

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/caddy-egress/egress/internal/target"
)

func authority(text string) target.Target {
	dest, err := target.ParseAuthority(text)
	if err != nil {
		panic(err)
	}
	return dest
}

// The rule that is told is the one that decides.
func TestExplainRule(t *testing.T) {
	rules := []Rule{
		{Subjects: []string{"good.example"}, Allow: true},
		{Subjects: []string{"*.corp.example", "192.0.2.0/24"}},
		{Subjects: []string{"10.1.0.0/16", "private"}, Allow: true},
		{Subjects: []string{"last.example"}, Allow: true},
	}
	l, err := New(rules, []PortRange{{80, 80}, {8000, 8999}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ dest, addr, want string }{
		{"good.example:80", "", "allow acl[0]: allow good.example"},
		{"x.corp.example:80", "", "deny acl[1]: deny *.corp.example"},
		{"other.example:80", "", "allow rules on addresses decide"},
		{"last.example:80", "", "allow rules on addresses decide"},
		{"good.example:443", "", "deny ports (allowed_ports in JSON): 443 is not in 80, 8000-8999"},
		{"good.example:80", "198.41.0.4", "allow acl[0]: allow good.example"},
		{"good.example:80", "127.0.0.1", "deny default deny: loopback"},
		{"good.example:80", "192.0.2.1", "deny default deny: documentation"},
		{"other.example:80", "192.0.2.1", "deny acl[1]: deny 192.0.2.0/24"},
		{"good.example:80", "10.1.2.3", "allow acl[2]: allow 10.1.0.0/16"},
		{"good.example:80", "10.2.2.3", "allow acl[2]: allow private"},
		{"good.example:80", "::ffff:10.2.2.3", "allow acl[2]: allow private"},
		{"other.example:80", "198.41.0.4", "allow no rule matches it"},
		{"last.example:80", "198.41.0.4", "allow acl[3]: allow last.example"},
	} {
		dest := authority(tc.dest)
		var got string
		if tc.addr == "" {
			got = told(l, l.CheckTarget(dest), dest, func() string { return l.AllowedName(dest) })
		} else {
			ip := netip.MustParseAddr(tc.addr)
			got = told(l, l.CheckAddr(dest, ip), dest, func() string { return l.AllowedAddr(dest, ip) })
		}
		if got != tc.want {
			t.Errorf("%s at %s: %q, want %q", tc.dest, tc.addr, got, tc.want)
		}
	}
	l, err = New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Reason(l.CheckTarget(authority("a.example:25")), 25); got != "ports (allowed_ports in JSON): 25 is closed by default" {
		t.Errorf("port 25: %q", got)
	}
}

func told(l *List, err error, dest target.Target, allowed func() string) string {
	if err != nil {
		return "deny " + l.Reason(err, dest.Port)
	}
	return "allow " + allowed()
}

// Whatever the rules are, the one that is told says what was decided, and alone with a
// name, or an address, decides the same.
func TestExplainRule_Agrees(t *testing.T) {
	subjects := []string{
		"all", "a.example", "*.example", "private", "10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "127.0.0.1:80",
		"198.41.0.4", "100.100.100.200", "::/0",
	}
	addrs := []string{"10.0.0.1", "10.0.0.2", "198.41.0.4", "127.0.0.1", "100.100.100.200", "2001:4860::1", "64:ff9b::a00:1"}
	rapid.Check(t, func(t *rapid.T) {
		var rules []Rule
		for range rapid.IntRange(0, 5).Draw(t, "rules") {
			rules = append(rules, Rule{
				Subjects: rapid.SliceOfN(rapid.SampledFrom(subjects), 1, 3).Draw(t, "subjects"),
				Allow:    rapid.Bool().Draw(t, "allow"),
			})
		}
		l, err := New(rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		dest := authority(rapid.SampledFrom([]string{"a.example:80", "b.example:80", "c.test:80"}).Draw(t, "dest"))
		ip := netip.MustParseAddr(rapid.SampledFrom(addrs).Draw(t, "ip"))
		err = l.CheckAddr(dest, ip)
		rule := l.Reason(err2(err), dest.Port)
		if err == nil {
			rule = l.AllowedAddr(dest, ip)
		}
		i, isRule := strings.CutPrefix(rule, "acl[")
		switch {
		case !isRule && err == nil && rule != noRule:
			t.Fatalf("allowed by %q", rule)
		case !isRule && err != nil && !strings.HasPrefix(rule, "default deny: "):
			t.Fatalf("denied by %q", rule)
		case !isRule:
			return
		}
		n := int(i[0] - '0')
		if rules[n].Allow != (err == nil) {
			t.Fatalf("rule %q, but %v", rule, err)
		}
		// The rules before it do not decide: without those from it on, the answer is
		// that of no rule.
		before, err := New(rules[:n], nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := before.CheckAddr(dest, ip); err == nil && before.AllowedAddr(dest, ip) != noRule && specialAddr(ip) == nil {
			if carried, many := target.Carried(ip); many == 0 || !carried[0].IsValid() {
				t.Fatalf("rule %q, but an earlier one decides: %s", rule, before.AllowedAddr(dest, ip))
			}
		}
	})
}

// err2 stands in for no error, whose reason nobody asks for.
func err2(err error) error {
	if err == nil {
		return errInvalidAddress
	}
	return err
}
