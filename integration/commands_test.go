package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commander runs commands of egress against one admin API.
type commander struct {
	t     *testing.T
	admin string
}

// run runs a command and expects its exit code, and what its output or its error has.
func (c commander) run(args string, code int, want ...string) string {
	c.t.Helper()
	out, errs, got := command(c.t, append([]string{"egress"}, append(strings.Fields(args), "--address", c.admin)...)...)
	if got != code || code == 0 && errs != "" {
		c.t.Errorf("%s: exit code %d, want %d: %s%s", args, got, code, out, errs)
	}
	for _, w := range want {
		if !strings.Contains(out+errs, w) {
			c.t.Errorf("%s: %q is not in:\n%s%s", args, w, out, errs)
		}
	}
	return out
}

// same runs a command with --json and expects what the API answers to a GET.
func (c commander) same(args, path string) {
	c.t.Helper()
	_, _, want := adminAPI{c.admin}.do(c.t, http.MethodGet, "/egress/"+path, "")
	if got := c.run(args+" --json", 0); got != want {
		c.t.Errorf("%s: got\n%s\nand the API answers\n%s", args, got, want)
	}
}

// Upstreams are listed, taken out and put back by id, URL or address, and where that is not
// one of them, those that there are are told.
func TestCommands_Upstreams(t *testing.T) {
	p := reserve(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	t.Parallel()
	p.start(t, processSetup{egress: groupOf("", one, two) + "upstreams other {\nupstream http://bob:hunter2@" + one.addr + "\n}\nroute {\nmatch {\nheader X-To other\n}\nto other\n}\nroute default\n"})
	a, c := adminAPI{p.admin}, commander{t, p.admin}
	find := func(group, url string) steered {
		t.Helper()
		var all []steered
		a.get(t, "upstreams?group="+group, &all)
		for _, u := range all {
			if u.URL == url {
				return u
			}
		}
		t.Fatalf("there is no %s in %s: %+v", url, group, all)
		return steered{}
	}
	mine, others := find("default", one.url()), find("other", one.url())

	c.run("upstreams", 0, "UPSTREAM", one.url(), two.url(), "default", "other", mine.ID, others.ID, " up ")
	c.same("upstreams", "upstreams")
	c.same("upstreams --group other", "upstreams?group=other")
	c.run("upstreams --state down", 0, "no upstreams")
	c.run("upstreams --limit 1", 0, "the first 1 of 3 upstreams; --limit shows more")
	c.run("upstreams --state dwn", 2, "query parameter 'state': 'dwn' is not one of maint, drain")
	c.run("upstreams --handler nobody", 2, "there is no egress handler 'nobody'; there are: clear")

	candidates := []string{mine.ID + " (" + one.url() + " in group default)", others.ID + " (" + one.url() + " in group other)"}
	for _, name := range []string{one.addr, one.url()} {
		c.run("drain "+name, 2, append(candidates, "'"+name+"' is more than one upstream; say which by its id:")...)
	}
	c.run("drain http://user:hunter2@"+one.addr, 2, candidates...)
	c.run("drain user:hunter2@"+one.addr, 2, candidates...)
	c.run("drain nobody:3128", 2, append(candidates, "there is no upstream 'nobody:3128'; there are:", two.url())...)
	if u := find("default", one.url()); u.Ordered != nil {
		t.Errorf("it was changed: %+v", u)
	}

	c.run("drain "+others.ID+" --for 15m --reason disk --weight 50%", 0, one.url()+" in group other: drain, weight 50%, until ", ": disk")
	if u, still := find("other", one.url()), find("default", one.url()); u.State != "drain" || u.Weight != 0.5 || u.Ordered.Reason != "disk" ||
		time.Until(u.Ordered.Until) > 15*time.Minute || time.Until(u.Ordered.Until) < 14*time.Minute || still.Ordered != nil {
		t.Errorf("%+v, %+v", u, still)
	}
	c.run("upstreams", 0, "drain", "disk (weight 50%, until ", "by 127.0.0.1)")
	out := c.run("maint "+two.addr+" --json", 0)
	var answer struct{ ID, State string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.State != "maint" || answer.ID != find("default", two.url()).ID {
		t.Errorf("%v: %s", err, out)
	}
	if u := find("default", two.url()); u.State != "maint" {
		t.Errorf("%+v", u)
	}
	c.run("ready "+two.url(), 0, two.url()+" in group default: ready\n")
	c.run("ready "+others.ID, 0)
	if u, v := find("default", two.url()), find("other", one.url()); u.Ordered != nil || v.Ordered != nil || v.Weight != 1 {
		t.Errorf("%+v, %+v", u, v)
	}
	c.run("ready "+others.ID+" --weight 20%", 0, "ready, weight 20%\n")
	c.run("drain "+others.ID+" --for soon", 2, "field 'for': 'soon' is not a duration above 0 such as 90s, 15m or 2d")
	c.run("drain "+others.ID+" --weight 200%", 2, "field 'weight': '200%' is not a share from 1% to 100%")
	c.run("drain", 1, "accepts 1 arg(s), received 0")
}

// Where several accounts share a URL, none is changed by it unless it is clear which, and
// passwords do not leave the command.
func TestCommands_Accounts(t *testing.T) {
	p, up, other := reserve(t), newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	t.Parallel()
	setup := processSetup{egress: accounts(up, "u1:hunter2", "u2:hunter3")}
	p.start(t, setup)
	a, c := adminAPI{p.admin}, commander{t, p.admin}
	var all []steered
	a.get(t, "upstreams", &all)
	first, second, states := all[0].ID, all[1].ID, "up drain"
	if strings.HasSuffix(all[0].URL, "#2") { // they are numbered by their ids
		first, second, states = second, first, "drain up"
	}
	for _, command := range []string{"drain http://u3:hunter3@" + up.addr, "kill --upstream http://u3:hunter3@" + up.addr, "tunnels --upstream u3:hunter3@" + up.addr} {
		c.run(command, 2, "user 'u3' has no account at '", first, second)
	}
	c.run("orders", 0, "no orders")
	c.run("drain "+up.url()+"#2 --reason disk", 0, up.url()+"#2 in group default: drain: disk")
	if got := strings.Join(a.states(t), " "); got != states {
		t.Error(got)
	}
	c.run("orders", 0, second+"  "+up.url()+"#2 in group default: drain: disk, by 127.0.0.1\n")
	c.same("orders", "orders")
	p.load(t, processSetup{egress: accounts(other, "u1:hunter2")})
	c.run("orders", 0, "(no handler has it now)")
	c.run("kill --dry-run --upstream http://u1:hunter2@"+other.addr, 2, "no tunnel is selected")
	a.get(t, "upstreams", &all)
	c.run("drain http://u2:hunter2@"+other.addr, 2, "user 'u2' has no account at 'http://"+other.addr+"'; there are: "+all[0].ID+" (http://"+other.addr+" in group default)")
	c.run("drain u1:hunter2@"+other.addr, 0, other.url()+" in group default: drain")
	c.run("ready http://u1:anything@"+other.addr, 0, "ready")
	c.run("ready "+second, 0, "ready")
	c.run("orders", 0, "no orders")
	p.signal(t, syscall.SIGTERM)
	p.exit(t)
	if strings.Contains(p.logs.all(), "hunter") {
		t.Error("a password is in the log")
	}
}

// Tunnels are listed and ended by id and by filter, and nothing else is ended.
func TestCommands_Tunnels(t *testing.T) {
	p, echo, other := reserve(t), newEchoOrigin(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{})
	a, c := adminAPI{p.admin}, commander{t, p.admin}
	first, second, third := p.client(t, "h1").open(t, echo.addr), p.client(t, "h2").open(t, echo.addr), p.client(t, "h1").open(t, other.addr)
	defer second.Close()
	alive(t, first, "first")
	var all struct {
		Items []struct {
			ID     uint64
			Target string
		}
	}
	a.get(t, "tunnels?sort=age", &all)
	if len(all.Items) != 3 {
		t.Fatalf("%+v", all)
	}
	id := fmt.Sprint(all.Items[0].ID)

	c.run("tunnels", 0, "TARGET", echo.addr, other.addr, "direct", "127.0.0.1")
	c.run("tunnels --target "+other.addr, 0, other.addr)
	c.run("tunnels --target nowhere.example", 0, "no tunnels")
	c.run("tunnels --limit 2", 0, "the first 2 of 3 tunnels; --limit shows more")
	c.run("tunnels --min-age soon", 2, "query parameter 'min_age': 'soon' is not a duration such as 90s or 1h30m")
	var listed struct{ Total int }
	if err := json.Unmarshal([]byte(c.run("tunnels --sort age --json", 0)), &listed); err != nil || listed.Total != 3 {
		t.Errorf("%v, %+v", err, listed)
	}

	c.run("kill", 1, "say which tunnels: kill <id>, or --user")
	c.run("kill "+id+" --user alice", 1, "either an id or flags that select tunnels, not both")
	c.run("kill first", 1, "'first' is not the id of a tunnel, which is a number")
	c.run("kill 999999", 2, "there is no tunnel 999999; it may have ended")
	c.run("kill --target nowhere.example", 2, "no tunnel is selected")
	c.run("kill "+id+" --dry-run", 0, echo.addr, "would be ended: 1 (--dry-run)")
	c.run("kill --target "+echo.addr+" --dry-run", 0, "would be ended: 2 (--dry-run)")
	for what, tun := range map[string]*tunnel{"first": first, "second": second, "third": third} {
		alive(t, tun, what+", after what was no more than tried")
	}
	c.run("kill "+id, 0, echo.addr, "ended: 1\n")
	_, _ = io.ReadAll(first)
	first.Close()
	alive(t, second, "second, after another one was ended")
	c.run("kill --target "+other.addr+" --json", 0, `"total":1`)
	_, _ = io.ReadAll(third)
	third.Close()
	alive(t, second, "second, after others were ended")
}

// The emergency is turned on and off.
func TestCommands_Emergency(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{})
	c := commander{t, p.admin}
	status := func() int {
		t.Helper()
		resp, tun := p.client(t, "h1").connect(t, echo.addr, "", nil)
		tun.Close()
		return resp.StatusCode
	}
	c.run("emergency", 0, "emergency off: requests are served")
	c.run("emergency on --for 10m --reason break-in", 0, "emergency on: all new requests are denied, by 127.0.0.1, until ", ": break-in")
	c.run("emergency", 0, "emergency on: all new requests are denied, by 127.0.0.1", "break-in")
	c.same("emergency", "emergency")
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d in an emergency", got)
	}
	c.run("top --interval 200ms", 0, "EMERGENCY: all new requests are denied: break-in (until ")
	c.run("emergency off", 0, "emergency off: requests are served")
	if got := status(); got != http.StatusOK {
		t.Errorf("status %d after an emergency", got)
	}
	tun := p.client(t, "h1").open(t, echo.addr)
	c.run("emergency on --end-tunnels", 0, "tunnels ended: 1")
	_, _ = io.ReadAll(tun)
	tun.Close()
	c.run("emergency of", 1, "emergency: 'of' is neither on nor off")
	c.run("emergency off --for 10m", 1, "--for, --reason and --end-tunnels are for 'emergency on'")
}

// Where nothing answers, or something else does, the error says what to do. The address is
// found as Caddy's own commands find it.
func TestCommands_Address(t *testing.T) {
	p := reserve(t)
	nobody := refusedAddr(t)
	t.Parallel()
	p.start(t, processSetup{})
	for _, args := range []string{"upstreams", "tunnels", "drain x", "kill 1", "emergency", "top", "top --once", "top --json"} {
		commander{t, nobody}.run(args, 1, "no answer from the admin API at "+nobody+" (is Caddy running? --address says where its admin API is)", "connection refused")
	}
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	commander{t, elsewhere.Listener.Addr().String()}.run("tunnels", 2, "does not have this endpoint: it was built without this module, or with an older version of it")
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer strange.Close()
	commander{t, strange.Listener.Addr().String()}.run("tunnels", 1, "is not what this command knows; are both of the same version?")
	commander{t, "tcp/:1-9"}.run("tunnels", 1, "--address: 'tcp/:1-9' is not an address such as localhost:2019 or unix//run/caddy-admin.sock")

	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("{\nadmin "+p.admin+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := command(t, "egress", "emergency", "--config", file); code != 0 || out != "emergency off: requests are served\n" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if _, errs, code := command(t, "egress", "emergency", "--adapter", "caddyfile"); code != 1 || !strings.Contains(errs, "--adapter is for the file that --config names") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if _, errs, code := command(t, "egress"); code != 1 || !strings.Contains(errs, "which command of egress? there are: check, drain, emergency, explain, kill, maint, orders, ready, top, tunnels, upstreams") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

// An admin API on a unix socket is asked as well.
func TestCommands_UnixSocket(t *testing.T) {
	socket := filepath.Join(shortDir(t), "admin.sock")
	p := reserve(t)
	t.Parallel()
	p.admin = "unix/" + socket
	p.start(t, processSetup{})
	commander{t, p.admin}.run("emergency", 0, "emergency off: requests are served")
	commander{t, p.admin + "|0600"}.run("tunnels", 0, "no tunnels")
}

// shortDir is a directory with a path that is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "eg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A shell completes upstreams, tunnels and words, and nothing where nothing answers.
func TestCommands_Completion(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	one := newScriptedUpstream(t, "one")
	t.Parallel()
	p.start(t, processSetup{egress: groupOf("", one)})
	var all []steered
	adminAPI{p.admin}.get(t, "upstreams", &all)
	tun := p.client(t, "h1").open(t, echo.addr)
	defer tun.Close()
	const noFiles = ":4\n"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"drain", "--address", p.admin, ""}, all[0].ID + "\t" + one.url() + " in group default, up\n" + noFiles},
		{[]string{"ready", "--address", p.admin, all[0].ID, ""}, noFiles},
		{[]string{"kill", "--address", p.admin, "--upstream", ""}, all[0].ID + "\t" + one.url() + " in group default, up\n" + noFiles},
		{[]string{"kill", "--address", p.admin, ""}, "\tnobody 127.0.0.1 to " + echo.addr + "\n" + noFiles},
		{[]string{"emergency", ""}, "on\noff\n" + noFiles},
		{[]string{"tunnels", "--sort", ""}, "rate\nbytes\nage\n" + noFiles},
		{[]string{"upstreams", "--state", "circuit"}, "full\nup\n" + noFiles},
		{[]string{"drain", "--address", "127.0.0.1:1", ""}, noFiles},
	} {
		out, errs, code := command(t, append([]string{"__complete", "egress"}, tc.args...)...)
		if code != 0 || !strings.HasSuffix(out, tc.want) {
			t.Errorf("%q: exit code %d, got\n%s%s\nwant\n%s", tc.args, code, out, errs, tc.want)
		}
	}
}
