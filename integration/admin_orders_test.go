package integration

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// This file contains with whom and where orders stay.

// accounts is a group with several accounts at one upstream.
func accounts(s *scriptedUpstream, logins ...string) string {
	text := "upstreams default {\nlb_policy round_robin\n"
	for _, l := range logins {
		text += "upstream http://" + l + "@" + strings.TrimPrefix(s.url(), "http://") + "\n"
	}
	return text + "}\n"
}

// states are those of all upstreams, in their order.
func (a adminAPI) states(t *testing.T) (states []string) {
	t.Helper()
	var all []steered
	a.get(t, "upstreams", &all)
	for _, u := range all {
		states = append(states, u.State)
	}
	return states
}

// What is ordered of an account stays when another one at its address comes, when it goes and
// comes back, and in all handlers that have it, whatever else they have; what is ordered of one
// that is gone can be seen and taken back.
func TestAdmin_OrdersOfAccounts(t *testing.T) {
	p := reserve(t)
	up := newScriptedUpstream(t, "one")
	t.Parallel()
	p.start(t, processSetup{egress: accounts(up, "u1:a")})
	a := adminAPI{p.admin}
	expect := func(when, want string) {
		t.Helper()
		if got := strings.Join(a.states(t), " "); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	var all []steered
	a.get(t, "upstreams", &all)
	id := all[0].ID
	a.order(t, "PATCH", "upstreams/"+id, `{"state":"drain"}`, nil)
	p.load(t, processSetup{egress: accounts(up, "u1:a", "u2:b")})
	expect("another account comes", "drain up")
	p.load(t, processSetup{egress: accounts(up, "u2:b")})
	expect("it goes", "up")
	p.awaitLog(t, "no handler has the upstream of an order any more; the order stays for when it comes back")
	type list struct {
		Items []struct {
			Ordered struct{ ID, State string }
			Present bool
		}
	}
	var standing list
	if a.get(t, "orders", &standing); len(standing.Items) != 1 || standing.Items[0].Ordered.ID != id || standing.Items[0].Present {
		t.Errorf("%+v", standing)
	}
	p.load(t, processSetup{egress: accounts(up, "u2:b", "u1:a")})
	expect("it comes back", "up drain")
	p.signal(t, syscall.SIGTERM)
	p.exit(t)
	p = p.again(t, processSetup{egress: accounts(up, "u2:b", "u1:a", "u1:c")})
	expect("a restart", "up drain up")
	p.awaitLog(t, "upstream is as ordered before the start")
	p.load(t, processSetup{egress: accounts(up, "u2:b")})
	a.order(t, "PATCH", "upstreams/"+id, `{"state":"ready","weight":"100%"}`, nil)
	var none list
	if a.get(t, "orders", &none); len(none.Items) != 0 {
		t.Errorf("%+v", none)
	}
}

// Handlers that have groups of one name with different accounts of one user at one address: no
// two share an id, and what is ordered of one stays with it, over reloads, in which Caddy comes
// to the handlers in any order, and restarts.
func TestAdmin_OrdersOfHandlers(t *testing.T) {
	p := reserve(t)
	up := newScriptedUpstream(t, "one")
	t.Parallel()
	setup := func(clear, tls string) processSetup {
		return processSetup{egress: accounts(up, clear), secure: accounts(up, tls)}
	}
	p.start(t, setup("u:a", "u:b"))
	a := adminAPI{p.admin}
	type entry struct {
		ID, State string
		Handlers  []string
	}
	ids := func(when string) map[string]string { // by handler
		t.Helper()
		var all []entry
		a.get(t, "upstreams", &all)
		found := make(map[string]string)
		for _, u := range all {
			for _, h := range u.Handlers {
				found[h] = u.ID + " " + u.State
			}
		}
		if len(all) != 2 || len(found) != 2 || all[0].ID == all[1].ID {
			t.Fatalf("%s: %+v", when, all)
		}
		return found
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		if got := ids(when); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	id, _, _ := strings.Cut(ids("at first")["tls"], " ")
	a.order(t, "PATCH", "upstreams/"+id, `{"state":"drain"}`, nil)
	want := ids("ordered")
	if want["tls"] != id+" drain" || !strings.HasSuffix(want["clear"], " up") {
		t.Fatalf("%v", want)
	}
	swapped := map[string]string{"clear": want["tls"], "tls": want["clear"]}
	for range 4 {
		p.load(t, setup("u:a", "u:b"))
		expect("a reload", want)
	}
	p.load(t, setup("u:b", "u:a"))
	expect("swapped", swapped)
	p.load(t, setup("u:a", "u:b"))
	expect("swapped back", want)
	p.load(t, setup("u:a", "u:c"))
	expect("another password", want)
	for range 2 {
		p.signal(t, syscall.SIGTERM)
		p.exit(t)
		p = p.again(t, setup("u:a", "u:c"))
		expect("a restart", want)
	}
}

// Orders are in the storage of the configuration that runs: a reload that fails changes nothing
// about that, and one with another storage takes them along.
func TestAdmin_OrdersMove(t *testing.T) {
	p := reserve(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	first, second := p.storage, t.TempDir()
	t.Parallel()
	p.start(t, processSetup{})
	a := adminAPI{p.admin}
	kept := func(dir string) bool {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "egress", "orders", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err != nil || strings.Contains(string(text), "break-in") {
				return true
			}
		}
		return false
	}
	p.storage = second
	failing := processSetup{plain: busy.Addr().String()}
	if err := p.post("/load", "text/caddyfile", []byte(p.caddyfile(t, failing))); err == nil {
		t.Fatal("it listens at an address that is taken")
	}
	var answer struct{ Order struct{ Stored bool } }
	a.order(t, "PUT", "emergency", `{"reason":"break-in"}`, &answer)
	if !answer.Order.Stored || !kept(first) || kept(second) {
		t.Errorf("after a reload that failed: %+v, %v, %v", answer, kept(first), kept(second))
	}
	p.load(t, processSetup{})
	eventually(t, "the orders to be in the other storage", func() bool { return kept(second) && !kept(first) })
	p.signal(t, syscall.SIGTERM)
	p.exit(t)
	p = p.again(t, processSetup{})
	var state struct{ On bool }
	if a.get(t, "emergency", &state); !state.On {
		t.Error("it is off after a restart")
	}
	p.awaitLog(t, "emergency goes on: all new requests are denied, as ordered before the start")
}
