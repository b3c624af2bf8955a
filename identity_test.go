package egress

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/tunnels"
)

// identified provisions an HTTP app, dry, and returns what its handlers are known by.
func identified(t *testing.T, config string) ([]string, error) {
	t.Helper()
	found, cleanUp, err := provisionDry([]byte(config))
	if err != nil {
		return nil, err
	}
	defer cleanUp()
	_, places := found.byPlace()
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

// Two configurations may have the same name, one after the other.
func TestIdentity_OverReloads(t *testing.T) {
	const config = `{"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:1"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"egress","name":"edge"}]}]}}}}}`
	first, endFirst, err := provisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	second, endSecond, err := provisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	a, b := first.entries[0], second.entries[0]
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
