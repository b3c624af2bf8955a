package egress

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// identified provisions an HTTP app, dry, and returns what its handlers are known by.
func identified(t *testing.T, config string) ([]string, error) {
	t.Helper()
	found, cleanUp, err := admin.ProvisionDry([]byte(config))
	if err != nil {
		return nil, err
	}
	defer cleanUp()
	_, places := found.ByPlace()
	return places, nil
}

// A handler is known by its name, or by its place, in which those with names count.
func TestIdentity(t *testing.T) {
	const two = `{"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:1","127.0.0.1:2"],"automatic_https":{"disable":true},` +
		`"routes":[{"handle":[{"handler":"egress"%s}]},{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"egress"%s}]}]}]}]}}}}}`
	for _, tc := range []struct {
		first, second string
		want          []string
		problem       string
	}{
		{"", "", []string{"127.0.0.1:1,127.0.0.1:2#1", "127.0.0.1:1,127.0.0.1:2#2"}, ""},
		{`,"name":"edge"`, "", []string{"edge", "127.0.0.1:1,127.0.0.1:2#2"}, ""},
		{`,"name":"a"`, `,"name":"b"`, []string{"a", "b"}, ""},
		{`,"name":"edge"`, `,"name":"edge"`, nil, `name: "edge" is taken by the handler 127.0.0.1:1,127.0.0.1:2#1; this one is 127.0.0.1:1,127.0.0.1:2#2`},
	} {
		got, err := identified(t, fmt.Sprintf(two, tc.first, tc.second))
		if tc.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tc.problem) {
				t.Errorf("%s and %s: %v; want %s", tc.first, tc.second, err, tc.problem)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s and %s: %q, %v; want %q", tc.first, tc.second, got, err, tc.want)
		}
	}
	identitiesMu.Lock()
	defer identitiesMu.Unlock()
	if len(configs) > 0 {
		t.Errorf("%d configurations are remembered", len(configs))
	}
}

// A named route has an instance in each server that uses it: their names are those of the
// handler and numbers, in the order of the addresses, whatever the order of provisioning.
func TestIdentity_NamedRoute(t *testing.T) {
	const server = `"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"invoke","name":"corp"}]}],` +
		`"named_routes":{"corp":{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"egress","name":"corp"}]}]}]}}`
	config := `{"apps":{"http":{"servers":{"b":{` + fmt.Sprintf(server, 2) + `},"a":{` + fmt.Sprintf(server, 1) + `},"c":{` + fmt.Sprintf(server, 3) + `}}}}}`
	for range 10 {
		got, err := identified(t, config)
		slices.Sort(got)
		if want := []string{"corp", "corp#2", "corp#3"}; err != nil || !slices.Equal(got, want) {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	one := `{"apps":{"http":{"servers":{"a":{` + fmt.Sprintf(server, 1) + `}}}}}`
	if got, err := identified(t, one); err != nil || !slices.Equal(got, []string{"corp"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Two configurations may have the same name, one after the other.
func TestIdentity_OverReloads(t *testing.T) {
	const config = `{"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:1"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"egress","name":"edge"}]}]}}}}}`
	first, endFirst, err := admin.ProvisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	second, endSecond, err := admin.ProvisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	a, b := handlersOf(first)[0], handlersOf(second)[0]
	if a.proxy.Tunnels.Value != b.proxy.Tunnels.Value {
		t.Error("two books")
	}
	book := a.proxy.Tunnels.Value
	endFirst()
	if tunnels.Books.Holders()["edge"] != 1 || book.Report().Configurations != 1 {
		t.Errorf("held by %d, %d policies", tunnels.Books.Holders()["edge"], book.Report().Configurations)
	}
	endSecond()
	if tunnels.Books.Holders()["edge"] != 0 || book.Report().Configurations != 0 {
		t.Errorf("held by %d, %d policies at the end", tunnels.Books.Holders()["edge"], book.Report().Configurations)
	}
}
