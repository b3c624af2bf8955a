package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/pattern"
	"github.com/caddy-egress/egress/internal/testkit/faultnet"
	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// What a seed promises: the same requests, and the same faults.
func TestSeedReproduces(t *testing.T) {
	a, b, other := plan{seed: 7, faults: true}, plan{seed: 7, faults: true}, plan{seed: 8, faults: true}
	same := 0
	for n := range int64(500) {
		if a.request(n) != b.request(n) {
			t.Fatalf("request %d differs", n)
		}
		if a.request(n) == other.request(n) {
			same++
		}
		if q := a.request(n); q.size < 0 || q.upload < 0 {
			t.Fatalf("%v", q)
		}
	}
	if same > 10 {
		t.Errorf("%d requests are the same with another seed", same)
	}
	l, m := &link{name: "x", seed: 7}, &link{name: "x", seed: 7}
	for k := range 200 {
		s, u := l.script(k), m.script(k)
		s.Notify, u.Notify = nil, nil
		if !reflect.DeepEqual(s, u) {
			t.Fatalf("connection %d differs", k)
		}
	}
}

// Random bytes are slipped in only where they cannot be taken for something else.
func TestGarbageIsRecognizable(t *testing.T) {
	for kind, want := range map[linkKind]func(int64) bool{
		carriesHTTP:  func(after int64) bool { return after == 0 },
		carriesTLS:   func(int64) bool { return true },
		carriesBytes: func(int64) bool { return false },
	} {
		l := &link{name: "x", seed: 1, kind: kind}
		for k := range 2000 {
			s := l.script(k)
			for _, f := range append(s.Up.Faults, s.Down.Faults...) {
				if f.Kind == faultnet.KindGarbage && !want(f.After) {
					t.Fatalf("kind %d: garbage after %d bytes", kind, f.After)
				}
			}
		}
	}
}

// liar is an origin behind nothing that does what a proxy must not.
func liar(t *testing.T, answer http.HandlerFunc) *lab {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	l := &lab{options: options{patience: time.Minute}, broken: new(violations), origin: &origin{httpAddr: s.Listener.Addr().String()}, clients: map[string]*client{}}
	l.clients["h1"] = newClient("h1", s.Listener.Addr().String(), nil)
	t.Cleanup(l.closeIdle)
	return l
}

func TestExchangeSeesWhatMustNotBe(t *testing.T) {
	q := request{number: 5, client: "h1", method: http.MethodGet, size: 100}
	right := (&pattern.Body{ID: []byte(q.id())}).Append(nil, q.size)
	send := func(id, received, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Id", id)
			w.Header().Set("X-Received", received)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tc := range map[string]struct {
		answer    http.HandlerFunc
		class     string
		violation string
	}{
		"right":             {send(q.id(), "0", string(right)), whole, ""},
		"of another":        {send("000000000000000f", "0", string(right)), "wrong answer", `got the answer to "000000000000000f"`},
		"short, but whole":  {send(q.id(), "0", string(right[:99])), whole, "looks whole after 99 bytes"},
		"a byte more":       {send(q.id(), "0", string(right)+"x"), whole, "wrong byte"},
		"a wrong byte":      {send(q.id(), "0", strings.Replace(string(right), string(right[50:60]), "##########", 1)), whole, "wrong byte"},
		"upload from where": {send(q.id(), "7", string(right)), whole, "has received 7 bytes"},
		"broken off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			send(q.id(), "0", string(right[:50]))(w, r)
		}, broken, ""},
		"an error": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Proxy-Status", "x; error=dns_error; details=1")
			w.WriteHeader(http.StatusBadGateway)
		}, "502 dns_error", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := liar(t, tc.answer)
			o := l.do(q)
			got := strings.Join(l.broken.all(), "\n")
			if o.class != tc.class || !strings.Contains(got, tc.violation) || (tc.violation == "") != (got == "") {
				t.Errorf("%+v, violations %q", o, got)
			}
		})
	}
}

func TestOriginSeesWhatMustNotBe(t *testing.T) {
	files, _, err := testcert.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	v := new(violations)
	o, err := startOrigin(pair, v)
	if err != nil {
		t.Fatal(err)
	}
	defer o.stop()
	post := func(id, upload string, body []byte) {
		r, _ := http.NewRequest(http.MethodPost, "http://"+o.httpAddr+"/x/"+id+"?size=0", bytes.NewReader(body))
		r.Header.Set("X-Upload", upload)
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
		}
	}
	defer http.DefaultClient.CloseIdleConnections()
	a, b := "00000000000000aa", "00000000000000bb"
	post(a, "16", []byte(a))
	if got := v.all(); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	post(a, "16", []byte(a))
	post(b, "17", []byte(b))
	post("00000000000000cc", "16", []byte(b))
	got := strings.Join(v.all(), "\n")
	for _, want := range []string{"was seen 2 times", "looks whole after 16 bytes of 17", "wrong bytes"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("not once %q: %s", want, got)
		}
	}
}

// Only what was under way when something failed is excused by it.
func TestExplain(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	l := &lab{options: options{patience: 20 * time.Second}, plan: plan{faults: true}}
	l.links = links{client: new(link), parent: new(link), parentTLS: new(link), origin: new(link), echo: new(link)}
	l.links.origin.strikes = []time.Time{at(100)}
	l.times.kills = []span{{at(200), at(201)}}
	l.times.reloads = []span{{at(300), at(301)}, {from: at(400)}}
	for _, tc := range []struct {
		name     string
		q        request
		class    string
		from, to int
		want     string
	}{
		{"during a fault", request{badOrigin: true}, broken, 99, 101, "fault on its way"},
		{"felt later", request{badOrigin: true}, broken, 112, 113, "fault on its way"},
		{"much later", request{badOrigin: true}, broken, 120, 121, ""},
		{"before", request{badOrigin: true}, broken, 97, 99, ""},
		{"another link", request{badClient: true, client: "h1"}, broken, 99, 101, ""},
		{"during a kill", request{parents: true}, broken, 199, 200, "upstream killed meanwhile"},
		{"after a kill", request{parents: true}, broken, 202, 203, ""},
		{"a kill of who is not asked", request{}, broken, 199, 202, ""},
		{"no answer at a reload", request{}, noAnswer, 300, 300, "connection lost at a reload"},
		{"at a reload that goes on", request{}, noAnswer, 500, 501, "connection lost at a reload"},
		{"between reloads", request{}, noAnswer, 302, 303, ""},
		{"broken at a reload", request{}, broken, 300, 300, ""},
		{"timed out at a reload", request{}, timedOut, 300, 330, ""},
	} {
		o := outcome{class: tc.class, answered: tc.class == broken, start: at(tc.from), end: at(tc.to)}
		if got := l.explain(tc.q, o); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Figures that are missing are an error: they would pass for 0, which is never too much.
func TestSnapshotWantsFigures(t *testing.T) {
	figures := []string{"process_resident_memory_bytes 1e6", "go_memstats_heap_alloc_bytes 2e5", "go_goroutines 20", "process_open_fds 15"}
	for missing := -1; missing < len(figures); missing++ {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/metrics" {
				_, _ = io.WriteString(w, `{"paths":[{"group":{"upstreams":[{"details":{"pickable":true}}]}}]}`)
				return
			}
			for i, line := range figures {
				if i != missing {
					_, _ = io.WriteString(w, line+"\n")
				}
			}
		}))
		got, err := (&caddy{name: "egress", admin: s.Listener.Addr().String()}).snapshot(false)
		if (err == nil) != (missing < 0) {
			t.Errorf("without figure %d: %v, %v", missing, got, err)
		}
		if missing < 0 && (got.open != 15 || got.goroutines != 20 || !got.idle()) {
			t.Errorf("%v", got)
		}
		s.Close()
	}
}

func TestFailedTellsTimeouts(t *testing.T) {
	for err, want := range map[error]string{
		context.DeadlineExceeded: timedOut,
		errors.New("reset"):      noAnswer,
		io.ErrUnexpectedEOF:      noAnswer,
	} {
		if got := failed(false, err).class; got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"", "one mode is wanted, faults or soak, behind the flags; got []"},
		{"both", `one mode is wanted, faults or soak, behind the flags; got ["both"]`},
		{"-for 0s soak", "-for must be positive, -reload and -kill not negative"},
		{"-rate 0 soak", "-rate 0: must be above 0, at most 10000"},
		{"-for 1h -seed 3 soak", ""},
	} {
		_, err := parse(strings.Fields(tc.args))
		if err == nil && tc.want != "" || err != nil && err.Error() != tc.want {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
}

// What is rude must be made up for, or be told of; passing it on is no way to end.
func TestRudenessEnds(t *testing.T) {
	for kind, right := range map[rudeness]string{
		polite: whole, interimStorm: whole, youngClose: whole,
		brokenChunk: "502 http_protocol_error", halfHead: "502 http_response_incomplete",
		malformedHead: "400 http_request_error",
	} {
		for _, class := range []string{whole, broken, noAnswer, timedOut, "502 http_protocol_error", "502 http_response_incomplete", "400 http_request_error", "503 connection_limit_reached"} {
			want := class == right || strings.HasPrefix(right, "502") && strings.HasPrefix(class, "502")
			if got := kind.ends(outcome{class: class}); got != want {
				t.Errorf("%v that ended as %q is right: %v", kind, class, got)
			}
		}
	}
	seen := make(map[rudeness]int)
	for n := range int64(5000) {
		q := plan{seed: 3, faults: true}.request(n)
		if seen[q.rude]++; q.rude != polite && q.badOrigin {
			t.Fatalf("%v: a link that fails would excuse it", q)
		}
		if q := (plan{seed: 3}).request(n); q.rude != polite {
			t.Fatalf("%v without faults", q)
		}
	}
	if len(seen) != int(rudeKinds) {
		t.Errorf("of %d kinds only %v", rudeKinds, seen)
	}
}
