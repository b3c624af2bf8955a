package upstream

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/selection"
)

// namesOf are the names that a group of sockets reports, by ID.
func namesOf(t *testing.T, specs ...Spec) map[string]string {
	t.Helper()
	cfg := Config{Name: "twins", Logger: zap.NewNop(), Context: t.Context(), State: new(State), Policy: new(selection.EWMA), Dialer: new(dial.Dialer), Events: noEvents{}}
	cfg.Health = health.GroupConfig{UpstreamConfig: health.DefaultUpstreamConfig()}
	for _, s := range specs {
		s.Weight = 1
		cfg.Static = append(cfg.Static, &s)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	names := make(map[string]string)
	r := g.Report(time.Now())
	for i := range r.Members {
		names[r.Members[i].ID] = r.Members[i].Name
	}
	if len(names) != len(specs) {
		t.Fatalf("%v", names)
	}
	return names
}

// Upstreams that differ only in what is not told have a number each, which does not depend on
// their order, and which is no other upstream's name.
func TestReport_Twins(t *testing.T) {
	socket := func(path string, login *Login) Spec {
		return Spec{Addr: Address{Scheme: HTTP, Socket: path}, Login: login}
	}
	specs := []Spec{
		socket("/tmp/a", nil), socket("/tmp/a", &Login{"x", "p"}), socket("/tmp/a", &Login{"y", "p"}), socket("/tmp/a#2", nil), socket("/tmp/\xff", nil), socket("/tmp/b", nil),
	}
	names := namesOf(t, specs...)
	var sorted []string
	for _, name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	want := []string{"http+unix:///tmp/%FF", "http+unix:///tmp/a", "http+unix:///tmp/a#2", "http+unix:///tmp/a#3", "http+unix:///tmp/a%232", "http+unix:///tmp/b"}
	if !slices.Equal(sorted, want) {
		t.Errorf("%q, want %q", sorted, want)
	}
	slices.Reverse(specs)
	for id, name := range namesOf(t, specs...) {
		if names[id] != name {
			t.Errorf("%s is %s, and was %s in another order", id, name, names[id])
		}
	}
}

// The name of an upstream is a URL that leads to it again.
func TestAddress_Name(t *testing.T) {
	for _, text := range []string{"http+unix:///tmp/%FF.sock", "socks5+unix:///tmp/a%232", "http+unix:///tmp/a%20b%25", "http://[::1]:3128"} {
		a, err := ParseURL(text, "")
		if err != nil || a.String() != text {
			t.Errorf("%s: %s, %v", text, a, err)
		}
	}
}
