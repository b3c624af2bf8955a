package egress

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"go.uber.org/goleak"
)

func TestACLRuleJSON(t *testing.T) {
	const in = `[{"subjects":["*.example.com","10.0.0.0/8"],"allow":true},{"subjects":["all"]}]`
	var rules []ACLRule
	if err := json.Unmarshal([]byte(in), &rules); err != nil {
		t.Fatal(err)
	}
	if out, _ := json.Marshal(rules); string(out) != in {
		t.Errorf("got %s", out)
	}
}

// What a handler watches, Cleanup stops; a bad file refuses the configuration, and
// leaves no watch behind.
func TestAccessRules_Provision(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	config := fmt.Sprintf(`{"acl": [{"subjects": ["a.example"]}, {"files": [%q]}]}`, path)
	fixture.WriteFile(t, path, "b.example\nc:d:e\n")
	_, _, err := loadModule(t, config)
	want := "provision http.handlers.egress: acl[1]: " + path + ":2: subject 'c:d:e': "
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	fixture.WriteFile(t, path, "b.example\n")
	h, end := mustLoadModule(t, config)
	if h.proxy.Access.Now().CheckTarget(fixture.Target(t, "b.example")) == nil {
		t.Error("the file is not in force")
	}
	end()
}

func TestOnPolicyChange_Errors(t *testing.T) {
	_, _, err := loadModule(t, `{"tunnel": {"on_policy_change": "end"}}`)
	want := `provision http.handlers.egress: tunnel.on_policy_change: unknown value "end": one of keep, close`
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	for text, want := range map[string]string{
		`{"acl": [{"files": []}]}`:   "provision http.handlers.egress: acl[0]: no subjects; write at least one, or 'all'",
		`{"acl": [{"files": [""]}]}`: "provision http.handlers.egress: acl[0]: a file needs a path",
	} {
		if _, _, err := loadModule(t, text); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}
