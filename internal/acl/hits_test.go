package acl

import (
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/target"
)

func hitsOf(t *testing.T, r *Rules) map[string]uint64 {
	t.Helper()
	told := make(map[string]uint64)
	report := r.Report()
	for _, rule := range append(report.Rules, report.Defaults...) {
		told[rule.Text] = rule.Hits
		if (rule.Hits > 0) == rule.Last.IsZero() {
			t.Errorf("%s: %d hits, the last one %s", rule.Text, rule.Hits, rule.Last)
		}
	}
	return told
}

func parsed(t *testing.T, authority string) target.Target {
	t.Helper()
	dest, err := target.ParseAuthority(authority)
	if err != nil {
		t.Fatal(err)
	}
	return dest
}

// The rule that decides about a request is counted, or the default where none does, and
// asking alone counts nothing. The next configuration goes on with the rules that it has
// still, wherever they stand; those that nobody has any more are forgotten.
func TestHits(t *testing.T) {
	file := subjectFile(t, "listed.example\n192.0.2.0/24\n")
	rules := []Rule{
		{Subjects: []string{"*.internal.example"}},
		{Files: []string{file}},
		{Subjects: []string{"10.0.0.0/8", "open.example"}, Allow: true},
	}
	counts := NewHits()
	now := time.Now()
	r, err := NewRules(rules, nil, counts, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(authority, addr string) {
		t.Helper()
		dest := parsed(t, authority)
		ip := netip.Addr{}
		err := r.Now().CheckTarget(dest)
		if addr != "" && err == nil {
			ip = netip.MustParseAddr(addr)
			err = r.Now().CheckAddr(dest, ip)
		}
		if err != nil {
			r.CountRefused(err, now)
		} else {
			r.CountPassed(dest, ip, now)
		}
	}
	ask("a.internal.example:443", "")
	ask("listed.example:443", "")
	ask("other.example:443", "192.0.2.7")
	ask("other.example:443", "10.1.2.3")
	ask("10.1.2.3:443", "")
	ask("open.example:443", "")           // an upstream resolves it
	ask("other.example:443", "8.8.8.8")   // no rule matches
	ask("other.example:443", "127.0.0.1") // a default
	ask("other.example:25", "")           // another one
	_ = r.Now().CheckTarget(parsed(t, "b.internal.example:443"))
	want := map[string]uint64{
		"acl[0]: deny *.internal.example": 1, "acl[1]: deny_file " + file: 2, "acl[2]: allow 10.0.0.0/8": 2, "acl[2]: allow open.example": 1,
		"default deny: loopback": 1, "ports": 1,
	}
	expect := func(r *Rules, want map[string]uint64) {
		t.Helper()
		got := hitsOf(t, r)
		for text, n := range want {
			if got[text] != n {
				t.Errorf("%s: %d, want %d", text, got[text], n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	expect(r, want)
	if f := r.Report().Rules[1].File; f == nil || f.Entries != 2 || f.Path != file {
		t.Errorf("%+v", f)
	}
	next, err := NewRules([]Rule{rules[2], {Subjects: []string{"new.example"}}}, nil, counts, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	r.Stop()
	r.Stop()
	expect(next, map[string]uint64{
		"acl[0]: allow 10.0.0.0/8": 2, "acl[0]: allow open.example": 1, "acl[1]: deny new.example": 0, "default deny: loopback": 1, "ports": 1,
	})
	if len(counts.rules) != 3 {
		t.Errorf("%d rules are counted still", len(counts.rules))
	}
	next.Stop()
	if len(counts.rules) != 0 {
		t.Errorf("%d rules are counted still", len(counts.rules))
	}
}

// Counting allocates nothing.
func TestHits_Allocations(t *testing.T) {
	r, err := NewRules([]Rule{{Subjects: []string{"*.internal.example"}}, {Subjects: []string{"10.0.0.0/8"}, Allow: true}}, nil, NewHits(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	denied, allowed, addr, now := parsed(t, "a.internal.example:443"), parsed(t, "other.example:443"), netip.MustParseAddr("10.1.2.3"), time.Now()
	refusal := r.Now().CheckTarget(denied)
	if n := testing.AllocsPerRun(100, func() {
		r.CountRefused(refusal, now)
		r.CountPassed(allowed, addr, now)
		r.CountPassed(allowed, netip.Addr{}, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
