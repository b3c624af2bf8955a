package integration

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// eventStream is a stream of events that a test reads.
type eventStream struct {
	t    *testing.T
	resp *http.Response
	sent chan streamedEvent // closed at the end of the stream
}

type streamedEvent struct {
	id, name string
	data     string
}

// follow follows events at a URL, after the one with an ID.
func follow(t *testing.T, url, after string) *eventStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%s: %s %s", url, resp.Status, got)
	}
	s := &eventStream{t, resp, make(chan streamedEvent, 100)}
	t.Cleanup(func() { resp.Body.Close() })
	go s.read()
	return s
}

func (s *eventStream) read() {
	defer close(s.sent)
	var e streamedEvent
	for lines := bufio.NewScanner(s.resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data += value + "\n"
		case "":
			if e.data != "" {
				s.sent <- e
			}
			e = streamedEvent{}
		}
	}
}

// wait waits for an event, and returns what it tells.
func (s *eventStream) wait(name string, ok func(data map[string]any) bool) (id string, data map[string]any) {
	s.t.Helper()
	for {
		e := await(s.t, s.sent, "the event "+name)
		if e.data == "" {
			s.t.Fatalf("the stream ended before %s", name)
		}
		var told struct {
			Event string
			Data  map[string]any
		}
		if err := json.Unmarshal([]byte(e.data), &told); err != nil || told.Event != e.name {
			s.t.Fatalf("%v: %+v", err, e)
		}
		if e.name == name && (ok == nil || ok(told.Data)) {
			return e.id, told.Data
		}
	}
}

// end waits for the end of the stream.
func (s *eventStream) end() {
	s.t.Helper()
	for e := range s.sent {
		s.t.Logf("%+v", e)
	}
}

// Events are told as they come, and again to a reader that comes back. The stream ends at a
// reload, for which it keeps nothing waiting.
func TestAdmin_Events(t *testing.T) {
	p := reserve(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	t.Parallel()
	setup := func(name string) processSetup {
		return processSetup{egress: "server_name " + name + "\ntunnel {\nmax_tunnels 1\n}\n" +
			groupOf("health_check tcp\nhealth_interval 100ms\nhealth_fails 1\nhealth_passes 1\n", one, two)}
	}
	p.start(t, setup("first"))
	a := adminAPI{p.admin}
	url := "http://" + p.admin + "/egress/events"
	events := follow(t, url, "")

	var all []steered
	a.get(t, "upstreams", &all)
	a.order(t, "PATCH", "upstreams/"+all[0].ID, `{"state":"drain","reason":"<script>"}`, nil)
	first, data := events.wait("admin_changed", nil)
	if data["by"] != "127.0.0.1" || data["reason"] != "<script>" || data["state"] != "drain" || data["upstream"] != one.url() || first == "" {
		t.Errorf("%s %v", first, data)
	}
	keepBusy(t, p.proxy, okOrigin(t).URL)
	two.down()
	_, data = events.wait("unhealthy", nil)
	if data["upstream"] != two.url() || data["reason"] != "check_failed" || data["group"] != "default" {
		t.Errorf("%v", data)
	}
	p.load(t, setup("second"))
	events.end()

	again := follow(t, url, first)
	if _, data = again.wait("unhealthy", nil); data["upstream"] != two.url() {
		t.Errorf("told again: %v", data)
	}
	again.wait("reloaded", func(data map[string]any) bool { return data["upstreams_kept"] == 2.0 })
	two.up()
	again.wait("healthy", nil)
	follow(t, url+"?recent=true", "").wait("admin_changed", nil)

	echo := newEchoOrigin(t)
	standing := p.client(t, "h1").open(t, echo.addr)
	defer standing.Close()
	for range 3 { // the limit is reached once
		resp, tun := p.client(t, "h1").connect(t, echo.addr, "", nil)
		tun.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	limited, data := again.wait("limit_reached", nil)
	if data["limit"] != "tunnel.max_tunnels" || data["handler"] != "clear" {
		t.Errorf("%v", data)
	}

	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Last-Event-ID", "7")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var said struct{ Error string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || resp.StatusCode != 400 || said.Error != "field Last-Event-ID: '7' is not the id of an event" {
		t.Errorf("%s %s %v", resp.Status, said.Error, err)
	}
	if status, h, body := a.do(t, http.MethodHead, "/egress/events", ""); status != 200 || body != "" || h.Get("Content-Type") != "text/event-stream" {
		t.Error(status, h, body)
	}

	standing.Close()
	p.signal(t, syscall.SIGTERM)
	for e := range again.sent {
		if e.name == "limit_reached" && e.id != limited {
			t.Errorf("the limit was reached once: %+v", e)
		}
	}
	p.exit(t)
	if strings.Contains(p.logs.all(), "stopping admin server:") {
		t.Error("the admin server waited for the stream")
	}
}
