package selection

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/words"
)

// adaptPolicy reads a block with one lb_policy, as a group of upstreams does,
// and a word behind it that must still be there.
func adaptPolicy(input string) (string, error) {
	d := caddyfile.NewTestDispenser("upstreams {\n\tlb_policy " + input + "\n\tlb_retries 2\n}")
	d.Next()
	got, after := "", false
	err := words.Block(d, "upstreams", map[string]func() error{
		"lb_policy": func() error {
			raw, err := Unmarshal(d)
			got = string(raw)
			return err
		},
		"lb_retries": func() error {
			after = true
			_, _, err := words.One(d)
			return err
		},
	})
	if err == nil && !after {
		got = "swallowed the word behind it"
	}
	return got, err
}

func TestPolicyCaddyfile(t *testing.T) {
	for _, test := range []struct{ input, want string }{
		{"random", `{"policy":"random"}`},
		{"random_choose 3", `{"choose":3,"policy":"random_choose"}`},
		{"round_robin", `{"policy":"round_robin"}`},
		{"weighted_round_robin", `{"policy":"weighted_round_robin"}`},
		{"least_conn", `{"policy":"least_conn"}`},
		{"p2c_ewma", `{"policy":"p2c_ewma"}`},
		{"first", `{"policy":"first"}`},
		{"client_ip_hash", `{"policy":"client_ip_hash"}`},
		{"user_hash", `{"policy":"user_hash"}`},
		{"destination_hash", `{"policy":"destination_hash"}`},
		{"header X-Session", `{"field":"X-Session","policy":"header"}`},
		{"header X-Session {\n}", `{"field":"X-Session","policy":"header"}`},
		{"header X-Session {\nfallback first\n}", `{"fallback":{"policy":"first"},"field":"X-Session","policy":"header"}`},
		{"cookie sid", `{"name":"sid","policy":"cookie"}`},
		{
			"cookie sid {\nfallback header X-Session {\nfallback random_choose 4\n}\n}",
			`{"fallback":{"fallback":{"choose":4,"policy":"random_choose"},"field":"X-Session","policy":"header"},"name":"sid","policy":"cookie"}`,
		},
	} {
		got, err := adaptPolicy(test.input)
		if err != nil || got != test.want {
			t.Errorf("lb_policy %s: got %s, %v, want %s", test.input, got, err, test.want)
			continue
		}
		if _, err := tryPolicy(t, got); err != nil {
			t.Errorf("lb_policy %s: %v", test.input, err)
		}
	}
}

func TestPolicyCaddyfileErrors(t *testing.T) {
	for _, test := range []struct{ input, want string }{
		{"", "lb_policy wants the name of a selection policy, at Testfile:2"},
		{"first_one", "unknown selection policy 'first_one': one of " + policyNames() + ", at Testfile:2"},
		{"randon", "unknown selection policy 'randon' (did you mean 'random'?): one of " + policyNames() + ", at Testfile:2"},
		{"ip_hash", "unknown selection policy 'ip_hash' (write client_ip_hash), at Testfile:2"},
		{"uri_hash", "unknown selection policy 'uri_hash' (write destination_hash), at Testfile:2"},
		{"random 3", "unexpected argument '3': random takes none, at Testfile:2"},
		{"round_robin a", "unexpected argument 'a': round_robin takes none, at Testfile:2"},
		{"least_conn a", "unexpected argument 'a': least_conn takes none, at Testfile:2"},
		{"p2c_ewma 10s", "unexpected argument '10s': p2c_ewma takes none, at Testfile:2"},
		{"first a", "unexpected argument 'a': first takes none, at Testfile:2"},
		{"client_ip_hash a", "unexpected argument 'a': client_ip_hash takes none, at Testfile:2"},
		{"user_hash a", "unexpected argument 'a': user_hash takes none, at Testfile:2"},
		{"destination_hash a", "unexpected argument 'a': destination_hash takes none, at Testfile:2"},
		{"weighted_round_robin 3 2", "unexpected argument '3': weighted_round_robin takes none, set the weight of each upstream, at Testfile:2"},
		{"random {\nfallback first\n}", "unrecognized subdirective 'fallback' of random, at Testfile:3"},
		{"weighted_round_robin {\nweights 1\n}", "unrecognized subdirective 'weights' of weighted_round_robin, at Testfile:3"},
		{"random_choose", "random_choose wants one argument, got 0, at Testfile:2"},
		{"random_choose 2 3", "random_choose wants one argument, got 2, at Testfile:2"},
		{"random_choose two", "bad random_choose 'two': not a number, at Testfile:2"},
		{"random_choose 1", "bad random_choose '1': must be at least 2, at Testfile:2"},
		{"random_choose -1", "bad random_choose '-1': must be at least 2, at Testfile:2"},
		{"random_choose 2 {\nx\n}", "unrecognized subdirective 'x' of random_choose, at Testfile:3"},
		{"header", "header wants one argument, got 0, at Testfile:2"},
		{`header ""`, "header is empty, at Testfile:2"},
		{"header X-A X-B", "header wants one argument, got 2, at Testfile:2"},
		{"header X-A:", "header: bad field 'X-A:': not a token (RFC 9110 §5.6.2), at Testfile:2"},
		{"header X-A {\nfallbak first\n}", "unrecognized subdirective 'fallbak' of header (did you mean 'fallback'?), at Testfile:3"},
		{"header X-A {\nfallback\n}", "fallback wants the name of a selection policy, at Testfile:3"},
		{"header X-A {\nfallback nobody\n}", "unknown selection policy 'nobody': one of " + policyNames() + ", at Testfile:3"},
		{"header X-A {\nfallback first 2\n}", "unexpected argument '2': first takes none, at Testfile:3"},
		{"header X-A {\nfallback first\nfallback random\n}", "'fallback' stands twice in header, at Testfile:4"},
		{"cookie", "cookie wants one argument, got 0, at Testfile:2"},
		{"cookie sid secret", "cookie wants one argument, got 2, at Testfile:2"},
		{`cookie "a b"`, "cookie: bad name 'a b': not a token (RFC 9110 §5.6.2), at Testfile:2"},
		{"cookie sid {\nmax_age 1h\n}", "unrecognized subdirective 'max_age' of cookie, at Testfile:3"},
		{"not_a_policy", "module http.egress.selection_policies.not_a_policy (*selection.notAPolicy) is no selection policy, at Testfile:2"},
	} {
		if got, err := adaptPolicy(test.input); err == nil || err.Error() != test.want {
			t.Errorf("lb_policy %s: got %s, error\n%v, want\n%s", test.input, got, err, test.want)
		}
	}
}

func TestPolicyJSONErrors(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"policy":"nobody"}`, "unknown module: http.egress.selection_policies.nobody"},
		{`{"policy":"random","weights":[1]}`, `unknown field "weights"`},
		{`{"policy":"random_choose","choose":1}`, "bad choose 1: must be at least 2"},
		{`{"policy":"random_choose","choose":-2}`, "bad choose -2: must be at least 2"},
		{`{"policy":"header"}`, "field is required"},
		{`{"policy":"header","field":"a b"}`, "bad field 'a b': not a token (RFC 9110 §5.6.2)"},
		{`{"policy":"header","field":"a\nb"}`, `bad field 'a\nb': not a token (RFC 9110 §5.6.2)`},
		{`{"policy":"header","field":"a","fallback":{"policy":"random_choose","choose":1}}`, "loading fallback selection policy: loading module 'random_choose'"},
		{`{"policy":"header","field":"a","fallback":{"policy":"not_a_policy"}}`, "loading fallback selection policy: module of type *selection.notAPolicy is no selection policy"},
		{`{"policy":"cookie"}`, "name is required"},
		{`{"policy":"cookie","name":"a=b"}`, "bad name 'a=b': not a token (RFC 9110 §5.6.2)"},
		{`{"policy":"cookie","name":"a","secret":"b"}`, `unknown field "secret"`},
		{`{"policy":"not_a_policy"}`, "module of type *selection.notAPolicy is no selection policy"},
	} {
		if _, err := tryPolicy(t, test.config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %s", test.config, err, test.want)
		}
	}
}

func TestAbsentPolicyIsTheDefault(t *testing.T) {
	want := new(EWMA)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if got, err := Load(ctx, new(policyHolder), "PolicyRaw", nil, want); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
}

// notAPolicy is a module in the namespace that is something else.
type notAPolicy struct{}

func (notAPolicy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".not_a_policy",
		New: func() caddy.Module { return new(notAPolicy) },
	}
}

func (*notAPolicy) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func init() { caddy.RegisterModule(notAPolicy{}) }

// policyNames are all policies, those of other tests included.
func policyNames() string {
	var names []string
	for _, m := range caddy.GetModules(policyNamespace) {
		names = append(names, m.ID.Name())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
