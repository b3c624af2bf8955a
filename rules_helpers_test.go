package egress

import (
	"os"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/aclmodel"
)

// mustAccessList turns lines such as "deny 10.0.0.0/8 *.example" into rules.
func mustAccessList(t testing.TB, lines ...string) *acl.List {
	t.Helper()
	var rules []acl.Rule
	for _, line := range lines {
		verb, subjects, _ := strings.Cut(line, " ")
		rules = append(rules, acl.Rule{Subjects: strings.Fields(subjects), Allow: verb == "allow"})
	}
	l, err := acl.New(rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fixedRules are rules whose list never changes.
func fixedRules(l *acl.List) *acl.Rules {
	r := new(acl.Rules)
	r.Put(l)
	return r
}

// modelRules are rules as the model has them.
func modelRules(rules []acl.Rule) []aclmodel.Rule {
	var model []aclmodel.Rule
	for _, r := range rules {
		model = append(model, aclmodel.Rule{Subject: r.Subjects[0], Allow: r.Allow})
	}
	return model
}

func mustTarget(t testing.TB, s string) target.Target {
	t.Helper()
	tgt, err := target.ParseHostPort(s, 443)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return tgt
}

// writeFile writes a file as configuration management does: at once.
func writeFile(t testing.TB, path, content string) {
	t.Helper()
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}
