package integration

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// subscription is what Caddy's events app has told one that has subscribed.
type subscription struct {
	id  string
	got chan caddy.Event
}

// subscribe keeps events of a Caddy whose global options hold its own.
func subscribe(t *testing.T) *subscription {
	s := &subscription{fmt.Sprint(captureID.Add(1)), make(chan caddy.Event, 100)}
	eventCaptures.Store(s.id, s)
	t.Cleanup(func() { eventCaptures.Delete(s.id) })
	return s
}

func (s *subscription) take(e caddy.Event) { s.got <- e }

func (s *subscription) global(names ...string) string {
	return "events {\non " + strings.Join(names, " egress_capture "+s.id+"\non ") + " egress_capture " + s.id + "\n}\n"
}

// next is the next event, whose name and handler must be these. Others are an error.
func (s *subscription) next(t *testing.T, name, handler string) map[string]any {
	t.Helper()
	e := await(t, s.got, "the event "+name)
	if e.Name() != name || e.Data["handler"] != handler {
		t.Fatalf("%s %v, want %s of %s", e.Name(), e.Data, name, handler)
	}
	return e.Data
}

func (s *subscription) none(t *testing.T) {
	t.Helper()
	select {
	case e := <-s.got:
		t.Errorf("one more: %s %v", e.Name(), e.Data)
	default:
	}
}

// line waits for the line of the log that has the same words as an event.
func (c *logCapture) line(t *testing.T, msg, level string, data map[string]any) {
	t.Helper()
	l := c.wait(t, msg, func(l logLine) bool {
		return l.str("msg") == msg && (l.at("handler") == nil || l.at("handler") == data["handler"])
	})
	if l.str("level") != level {
		t.Errorf("%s: level %s", msg, l.str("level"))
	}
	for name, v := range data {
		if got := l.at(name); fmt.Sprint(got) != fmt.Sprint(v) {
			t.Errorf("%s: %s is %v, and %v in the event", msg, name, got, v)
		}
	}
}

// oneHandler is the setup of a Caddy with one handler, whose place is `only`.
func oneHandler(t *testing.T, logs *logCapture, global, egress string) string {
	addr := freeAddr(t)
	return globals{grace: "2s", storage: t.TempDir(), more: "skip_install_trust\n" + logs.asDefault("level DEBUG") + "\n" + global}.String() + "\n" +
		plainSite(addr, "", "server_name only\nname only\n"+egress)
}

// What becomes of a group as a whole is told once, over reloads too: that it panics, that no
// member can serve, and the end of both.
func TestEvents_Group(t *testing.T) {
	p := reserve(t)
	one, two, three := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two"), newScriptedUpstream(t, "three")
	t.Parallel()
	setup := func(name string) processSetup {
		return processSetup{egress: "server_name " + name + "\n" +
			groupOf("health_check tcp\nhealth_interval 100ms\nhealth_fails 1\nhealth_passes 1\n", one, two, three)}
	}
	p.start(t, setup("first"))
	url := "http://" + p.admin + "/egress/events?recent=true"
	events := follow(t, url, "")
	// expect waits for an event of one of the two handlers.
	expect := func(name, level, line string, want map[string]any) {
		t.Helper()
		_, data := events.wait(name, func(data map[string]any) bool { return data["handler"] == "clear" })
		if want["handler"], want["group"] = "clear", "default"; !maps.Equal(data, want) {
			t.Errorf("%s: %v, want %v", name, data, want)
		}
		p.logs.line(t, line, level, data)
	}
	keepBusy(t, p.proxy, okOrigin(t).URL)
	one.down()
	events.wait("unhealthy", nil)
	two.down()
	expect("panic_on", "warn", "too few upstreams of the group are in rotation: ejection is ignored", map[string]any{"in_rotation": 1.0, "ready": 3.0})
	three.down()
	expect("group_down", "error", "no upstream of the group can serve", map[string]any{"reason": "3 down by active check"})
	p.load(t, setup("second"))
	events.end()
	events = follow(t, url, "")
	events.wait("reloaded", nil)
	three.up()
	expect("group_up", "info", "the group has an upstream again that can serve", map[string]any{"in_rotation": 1.0, "ready": 3.0})
	two.up()
	expect("panic_off", "info", "enough upstreams of the group are in rotation again: ejection counts", map[string]any{"in_rotation": 2.0, "ready": 3.0})

	a := adminAPI{p.admin}
	var all []steered
	a.get(t, "upstreams", &all)
	for _, u := range all {
		a.order(t, http.MethodPatch, "upstreams/"+u.ID, `{"state":"drain"}`, nil)
	}
	_, data := events.wait("group_down", func(data map[string]any) bool { return data["handler"] == "clear" })
	if data["reason"] != "3 taken out by the operator" {
		t.Errorf("%v", data)
	}
	again := follow(t, url, "")
	counts := make(map[string]int)
	for done := false; !done; {
		e := await(t, again.sent, "all events")
		if strings.Contains(e.data, `"clear"`) {
			counts[e.name]++
		}
		done = e.name == "group_down" && strings.Contains(e.data, "operator") && strings.Contains(e.data, `"clear"`)
	}
	for name, want := range map[string]int{"panic_on": 1, "group_down": 2, "group_up": 1, "panic_off": 1} {
		if n := counts[name]; n != want {
			t.Errorf("%s was told %d times, want %d", name, n, want)
		}
	}
}

// That a group can serve again is told also where a reload has mended it: it has other members
// now.
func TestEvents_GroupMendedByReload(t *testing.T) {
	p := reserve(t)
	broken, whole := newScriptedUpstream(t, "broken"), newScriptedUpstream(t, "whole")
	broken.down()
	t.Parallel()
	setup := func(u *scriptedUpstream) processSetup {
		return processSetup{egress: groupOf("health_check tcp\nhealth_interval 100ms\nhealth_fails 1\nhealth_passes 1\n", u)}
	}
	ofClear := func(data map[string]any) bool { return data["handler"] == "clear" }
	p.start(t, setup(broken))
	url := "http://" + p.admin + "/egress/events?recent=true"
	events := follow(t, url, "")
	events.wait("group_down", ofClear)
	p.load(t, setup(whole))
	events.end()
	events = follow(t, url, "")
	if _, data := events.wait("group_up", ofClear); data["group"] != "default" || fmt.Sprint(data["in_rotation"]) != "1" {
		t.Errorf("%v", data)
	}
}

// That a list of rules was taken or not is told, once for each change of the file.
func TestEvents_Rules(t *testing.T) {
	checkLeaks(t)
	list := filepath.Join(t.TempDir(), "denied")
	replaceFile(t, list, "one.test\n")
	events, logs := subscribe(t), newLogCapture(t)
	load(t, oneHandler(t, logs, events.global("rules_reloaded", "rules_rejected"), "allow_unauthenticated\nacl {\ndeny_file "+list+"\n}\n"))
	replaceFile(t, list, "one.test\ntwo.test\n10.0.0.0/8\n")
	data := events.next(t, "rules_reloaded", "only")
	if data["changed"] != list || data["names"] != 2 || data["prefixes"] != 1 {
		t.Errorf("%v", data)
	}
	logs.line(t, "access rules changed", "info", map[string]any{"changed": list, "names": 2, "prefixes": 1})
	replaceFile(t, list, "no subject!\n")
	data = events.next(t, "rules_rejected", "only")
	if text := fmt.Sprint(data["error"]); data["changed"] != list || !strings.Contains(text, list) {
		t.Errorf("%v", data)
	}
	logs.line(t, "access rules cannot be read; the old ones stay", "error", map[string]any{"changed": list, "error": data["error"]})
	replaceFile(t, list, "three.test\n")
	events.next(t, "rules_reloaded", "only")
	events.none(t)
}

// That a source of members fails is told once, and that it is well again; a reload tells
// nothing anew.
func TestEvents_Source(t *testing.T) {
	checkLeaks(t)
	up := newForwarder(t, "A")
	tell(errors.New("no answer"))
	events, logs := subscribe(t), newLogCapture(t)
	config := oneHandler(t, logs, events.global("source_failed", "source_recovered"), usual+"upstreams default {\ndynamic egress_test\nscheme http\n}\n")
	load(t, config)
	data := events.next(t, "source_failed", "only")
	if data["group"] != "default" || data["error"] != "dynamic: no answer" {
		t.Errorf("%v", data)
	}
	logs.line(t, "dynamic source of upstreams failed; the members it told last stay", "error", map[string]any{"source": data["source"], "group": "default", "error": data["error"]})
	load(t, config+"\n# again\nhttp://:"+port(freeAddr(t))+" {\nbind 127.0.0.1\n}\n")
	before := timesAsked()
	eventually(t, "the source is asked again", func() bool { return timesAsked() >= before+2 })
	tell(nil, up.addr)
	data = events.next(t, "source_recovered", "only")
	logs.line(t, "source of upstreams works again", "info", data)
	events.none(t)

	list := filepath.Join(t.TempDir(), "list")
	replaceFile(t, list, up.addr+"\n")
	load(t, oneHandler(t, logs, events.global("source_failed", "source_recovered"), usual+"upstreams default {\nfile "+list+"\n}\n"))
	replaceFile(t, list, "not an address\n")
	if data = events.next(t, "source_failed", "only"); data["source"] != list || !strings.HasPrefix(fmt.Sprint(data["error"]), list+":1: ") {
		t.Errorf("%v", data)
	}
	replaceFile(t, list, up.addr+"\n")
	if data = events.next(t, "source_recovered", "only"); data["source"] != list {
		t.Errorf("%v", data)
	}
	events.none(t)
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
}

// An upstream that answers and reaches nothing is told to be suspect once, with what is done
// about that.
func TestEvents_Suspect(t *testing.T) {
	checkLeaks(t)
	one := newScriptedUpstream(t, "one")
	one.behave(answering(502))
	events := subscribe(t)
	p := start(t, mode{}, setup{egress: usual + groupOf("", one) + "route default\n", global: events.global("suspect")})
	c := p.client(t, "h1")
	for i := range 9 {
		resp, tun := c.connect(t, fmt.Sprintf("127.0.1.%d:%s", i+1, port(freeAddr(t))), "", nil)
		tun.Close()
		if resp.StatusCode < 500 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	e := await(t, events.got, "the event")
	if e.Data["upstream"] != one.url() || e.Data["group"] != "default" || e.Data["reason"] != "a health_check with a target would tell why" {
		t.Errorf("%v", e.Data)
	}
	p.logs.line(t, "upstream answers, but reaches none of several destinations: suspect", "warn", e.Data)
	events.none(t)
}
