package integration

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
)

// This file contains what a reload keeps of what is known about destinations, and what
// it says about that.

// openCircuit lets a destination fail until its circuit is open.
func openCircuit(t *testing.T, c *client, dest string) {
	t.Helper()
	for range 3 {
		c.get(t, "http://"+dest+"/")
	}
	expectError(t, c.get(t, "http://"+dest+"/").Response, 503, "destination_unavailable")
}

const circuitForLong = "destination_circuit {\nfailures 3\nwindow 1m\nopen_for 5m\nmax_open_for 5m\n}\n"

// A reload leaves the circuits of destinations open as long as their settings, and
// those that decide what can be reached, stay as they are. What has nothing to do with
// that may change.
func TestReload_Circuits(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		dead, origin := refusedAddr(t), okOrigin(t)
		via := newScriptedUpstream(t, "via")
		via.behave(only(dead, answering(504, "Proxy-Status: via; error=connection_timeout")))
		p := start(t, m, setup{egress: usual + circuitForLong})
		kept := func(what string, again bool, s setup) {
			t.Helper()
			p.reload(t, s)
			want, kind := 502, "connection_refused"
			if again {
				want, kind = 503, "destination_unavailable"
			}
			expectError(t, p.getAfterReload(t, "http://"+dead+"/").Response, want, kind)
			p.getAfterReload(t, origin.URL).expect(t, 200, "ok")
			if t.Failed() {
				t.Fatalf("after a reload with another %s", what)
			}
		}
		openCircuit(t, p.client(t, "h1"), dead)
		kept("field", true, setup{egress: usual + circuitForLong + "hide_via\n"})
		kept("pool", true, setup{egress: usual + circuitForLong + "transport {\nmax_conns_per_host 7\n}\n"})
		kept("limit of tunnels", true, setup{egress: usual + circuitForLong + "tunnel {\nmax_tunnels 7\n}\n"})
		kept("resolver", false, setup{egress: usual + circuitForLong + "transport {\nprefer_ip 4\n}\n"})
		kept("circuit", false, setup{egress: usual + "destination_circuit {\nfailures 3\nopen_for 4m\nmax_open_for 5m\n}\n"})
	})
}

// Through a group it is the same: its circuits last as long as its upstreams are the
// same, whatever becomes of its balancing.
func TestReload_CircuitsOfGroups(t *testing.T) {
	checkLeaks(t)
	dead, origin := refusedAddr(t), okOrigin(t)
	a, b := newScriptedUpstream(t, "a"), newScriptedUpstream(t, "b")
	for _, u := range []*scriptedUpstream{a, b} {
		u.behave(only(dead, answering(502, "Proxy-Status: "+u.name+"; error=connection_refused")))
	}
	config := func(words string, upstreams ...*scriptedUpstream) setup {
		return setup{egress: usual + circuitForLong + groupOf(words, upstreams...)}
	}
	p := start(t, mode{}, config("lb_policy first\nlb_retries off\n", a))
	c := p.client(t, "h1")
	for range 4 {
		c.get(t, "http://"+dead+"/")
	}
	expectError(t, c.get(t, "http://"+dead+"/").Response, 503, "destination_unavailable")
	asked := a.askedFor(dead)
	p.reload(t, config("lb_policy round_robin\nlb_retries off\n", a))
	expectError(t, p.getAfterReload(t, "http://"+dead+"/").Response, 503, "destination_unavailable")
	p.getAfterReload(t, origin.URL).expect(t, 200, "ok")
	if n := a.askedFor(dead); n != 0 {
		t.Errorf("asked %d times, before %d", n, asked)
	}
	p.reload(t, config("lb_policy round_robin\nlb_retries off\n", a, b))
	if got := p.getAfterReload(t, "http://"+dead+"/").StatusCode; got != 502 {
		t.Errorf("with another upstream beside it: %d, want that of the upstream", got)
	}
}

// After a reload, the members that a dynamic source told before are there at once,
// even where it says nothing.
func TestReload_DynamicMembers(t *testing.T) {
	checkLeaks(t)
	a, origin := newScriptedUpstream(t, "a"), okOrigin(t)
	tell(nil, a.addr)
	config := func(name, more string) setup {
		return setup{egress: usual + "server_name " + name + "\nupstreams default {\n dynamic egress_test\n scheme http\n}\n" + more}
	}
	p := start(t, mode{}, config("first", ""))
	c := p.client(t, "h1")
	eventually(t, "the source", func() bool { return c.get(t, origin.URL).StatusCode == 200 })
	conn := pooledConn(t, c, origin.URL, a)
	tell(errors.New("no answer"))
	for _, name := range []string{"second", "third"} {
		p.reload(t, config(name, ""))
		p.getAfterReload(t, origin.URL).expect(t, 200, "ok")
	}
	if !a.connected(conn) {
		t.Error("the connection to the upstream is gone")
	}
	// What concerns the way to destinations is no matter of what the source told.
	for _, more := range []string{
		"transport {\n dial_timeout 9s\n}\n",
		"destination_circuit off\n",
		"transport {\n hosts_override o.test 192.0.2.1\n}\n",
	} {
		p.reload(t, config("third", more))
		p.getAfterReload(t, origin.URL).expect(t, 200, "ok")
	}
}

// takenOver returns the lines about reloads.
func (c *logCapture) takenOver() (lines []logLine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if l.str("msg") == "state taken over from the configuration before" {
			lines = append(lines, l)
		}
	}
	return lines
}

// Each handler says once at each reload what it has kept, and nothing at the start.
func TestReload_Report(t *testing.T) {
	checkLeaks(t)
	a, b, gone := newScriptedUpstream(t, "a"), newScriptedUpstream(t, "b"), newScriptedUpstream(t, "gone")
	dead, origin, echo := refusedAddr(t), okOrigin(t), newEchoOrigin(t)
	release, arrived := newGate(), make(chan struct{}, 4)
	t.Cleanup(release.open)
	slow := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release.c
	})
	config := func(more string, upstreams ...*scriptedUpstream) setup {
		return setup{egress: usual + circuitForLong + more + "route {\nmatch {\nheader X-Via parent\n}\nto default\n}\nroute direct\n" + groupOf("lb_policy first\n", upstreams...)}
	}
	p := start(t, mode{}, config("", a, gone))
	c := p.client(t, "h1")
	c.get(t, origin.URL).expect(t, 200, "ok")
	openCircuit(t, c, dead)
	underWay := c.goTry(c.newRequest(t, "GET", slow.URL, nil))
	await(t, arrived, "the slow request")
	tun := p.client(t, "h2").open(t, echo.addr)
	if n := len(p.logs.takenOver()); n != 0 {
		t.Errorf("%d lines at the start", n)
	}
	old := running(t)

	expect := func(want string) {
		t.Helper()
		lines := p.logs.takenOver()
		got := map[string]string{}
		for _, l := range lines {
			text := ""
			for _, f := range []string{
				"connections_idle", "connections_active", "connections_closing", "connections_draining",
				"upstreams_kept", "upstreams_changed", "upstreams_new", "upstreams_removed", "failing_destinations", "names_kept", "tunnels",
			} {
				text += fmt.Sprintf("%s %v, ", f, l.at(f))
			}
			got[l.str("handler")] = text
		}
		if len(lines) != len(old) || len(got) != len(old) {
			t.Errorf("%d lines of %d handlers, want %d", len(lines), len(got), len(old))
		}
		if text := got["127.0.0.1:"+port(p.plain)+"#1"]; text != want {
			t.Errorf("logged\n%s want\n%s", text, want)
		}
		p.logs.mu.Lock()
		p.logs.lines = nil
		p.logs.mu.Unlock()
	}
	p.reload(t, config("server_name other\n", a, b))
	expect("connections_idle 1, connections_active 1, connections_closing 0, connections_draining 0, " +
		"upstreams_kept 1, upstreams_changed 0, upstreams_new 1, upstreams_removed 1, failing_destinations 1, names_kept true, tunnels 0, ")
	p.reload(t, config("transport {\nmax_conns_per_host 9\nprefer_ip 4\n}\n", a, b))
	expect("connections_idle 0, connections_active 0, connections_closing 1, connections_draining 1, " +
		"upstreams_kept 0, upstreams_changed 2, upstreams_new 0, upstreams_removed 0, failing_destinations 0, names_kept true, tunnels 0, ")
	release.open()
	await(t, underWay, "the slow answer").must(t)
	tun.Close()
}
