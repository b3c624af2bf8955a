package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() { caddy.RegisterModule(testSource{}) }

// testSource is a source of upstreams that tests fill.
type testSource struct{}

var told struct {
	sync.Mutex
	addrs []string
	err   error
	asked int
	hold  <-chan struct{} // nil: it answers at once

	unbounded bool // it was asked without a deadline once
}

func timesAsked() int {
	told.Lock()
	defer told.Unlock()
	return told.asked
}

func tell(err error, addrs ...string) {
	told.Lock()
	defer told.Unlock()
	told.addrs, told.err = addrs, err
}

func (testSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.egress_test", New: func() caddy.Module { return new(testSource) }}
}

func (testSource) GetUpstreams(r *http.Request) (list []*reverseproxy.Upstream, err error) {
	_, bounded := r.Context().Deadline()
	told.Lock()
	defer told.Unlock()
	told.asked++
	told.unbounded = told.unbounded || !bounded
	if hold := told.hold; hold != nil {
		told.Unlock()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
		told.Lock()
	}
	for _, a := range told.addrs {
		list = append(list, &reverseproxy.Upstream{Dial: a})
	}
	return list, told.err
}

func (testSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

var (
	_ reverseproxy.UpstreamSource = testSource{}
	_ caddyfile.Unmarshaler       = testSource{}
)

// until repeats a request until its answer is as wanted.
func (c *client) until(t *testing.T, status int, body string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		r := c.get(t, "http://o.test/")
		if r.StatusCode == status && (body == "" || r.body == body) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still %d %q, want %d %q", r.StatusCode, r.body, status, body)
		}
	}
}

// A list in a file is followed: members that stay keep their connections, also where
// the file is replaced; one that cannot be read changes nothing.
func TestUpstreamSource_File(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "list")
	write := func(lines ...string) {
		t.Helper()
		tmp := path + ".new"
		if err := os.WriteFile(tmp, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, path); err != nil {
			t.Fatal(err)
		}
	}
	a, b := newForwarder(t, "A"), newForwarder(t, "B")
	write("\ufeff# proxies", "", "  "+a.addr+"  ", a.addr)
	p := start(t, mode{access: true}, setup{egress: usual + "upstreams default {\n file " + path + "\n lb_policy first\n}\n"})
	c := p.client(t, "h1")
	c.until(t, 200, "A")
	write("http://user:s3cr3t@"+b.addr, a.addr)
	c.until(t, 200, "B")
	write(a.addr)
	c.until(t, 200, "A")
	if n := a.count(); n != 1 {
		t.Errorf("%d connections to the one that stayed, want 1", n)
	}
	for _, bad := range []struct{ line, want string }{
		{"http://u:s3cr3t@%zz", "not a URL"},
		{"127.0.0.1", "not a URL and not of the form"},
		{"ftp://127.0.0.1:1", "unknown scheme 'ftp'"},
		{"", "has no upstreams"},
		{strings.Repeat("x", 9000), "longer than 8192 bytes"},
	} {
		if bad.line == "" {
			write("# nothing")
		} else {
			write(b.addr, bad.line)
		}
		p.logs.wait(t, bad.want, func(l logLine) bool {
			return l.str("msg") == "list of upstreams cannot be used; the old one stays" && strings.Contains(l.str("error"), bad.want)
		})
		c.get(t, "http://o.test/").expect(t, 200, "A")
	}
	if strings.Contains(p.logs.all(), "s3cr3t") {
		t.Error("credentials are in the log")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(b.addr)
	c.until(t, 200, "B")
	if n := a.count(); n != 1 {
		t.Errorf("%d connections to A, want 1", n)
	}
}

// A list that cannot be used when it changes, here since the password beside it is not
// there, is used later, though it has not changed again. It is told once as an error.
func TestUpstreamSource_FileReadLater(t *testing.T) {
	checkLeaks(t)
	dir := t.TempDir()
	path, password := filepath.Join(dir, "list"), filepath.Join(dir, "password")
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	a, b := newForwarder(t, "A"), newForwarder(t, "B")
	put(path, a.addr)
	put(password, "s3cr3t")
	p := start(t, mode{access: true}, setup{egress: usual + "upstreams default {\n file " + path + "\n credentials u {file." + password + "}\n}\n"})
	c := p.client(t, "h1")
	c.until(t, 200, "A")
	if err := os.Remove(password); err != nil {
		t.Fatal(err)
	}
	put(path, b.addr)
	failed := func(l logLine) bool { return l.str("msg") == "list of upstreams cannot be used; the old one stays" }
	p.logs.wait(t, "the list cannot be used", failed)
	c.get(t, "http://o.test/").expect(t, 200, "A")
	put(password, "s3cr3t")
	c.until(t, 200, "B")
}

// Credentials in a list are what stands there: the list may be somebody else's.
func TestUpstreamSource_ListsHaveNoPlaceholders(t *testing.T) {
	checkLeaks(t)
	t.Setenv("EGRESS_TEST_SECRET", "leaked")
	saw := make(chan string, 10)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		saw <- r.header.Get("Proxy-Authorization")
		oc.ok("ok")
		return true
	})
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(up.addr+":user:{env.EGRESS_TEST_SECRET}:{file."+path+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, mode{}, setup{egress: usual + "upstreams default {\n file " + path + "\n}\n"})
	p.client(t, "h1").get(t, "http://o.test/").expect(t, 200, "ok")
	r, _ := http.NewRequest(http.MethodGet, "http://x", nil)
	r.SetBasicAuth("user", "{env.EGRESS_TEST_SECRET}:{file."+path+"}")
	if got := await(t, saw, "the request"); got != r.Header.Get("Authorization") {
		t.Errorf("got %q", got)
	}
}

// Members of a dynamic source come and go; those that stay keep health and
// connections; a source that fails leaves the members as they are.
func TestUpstreamSource_Dynamic(t *testing.T) {
	checkLeaks(t)
	a, b := newForwarder(t, "A"), newForwarder(t, "B")
	sick := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool { return false })
	tell(errors.New("no answer"))
	p := start(t, mode{access: true}, setup{egress: usual + "upstreams default {\n dynamic egress_test\n scheme http\n lb_policy round_robin\n circuit {\n consecutive_failures 1\n open_for 10m\n max_open_for 10m\n}\n}\n"})
	c := p.client(t, "h1")
	expectError(t, c.get(t, "http://o.test/").Response, 503, "destination_unavailable")
	p.logs.wait(t, "the error of the source", func(l logLine) bool {
		return strings.HasPrefix(l.str("msg"), "dynamic source of upstreams failed") && l.str("error") == "dynamic: no answer"
	})
	tell(nil, sick.addr, a.addr)
	c.until(t, 200, "A")
	for range 4 { // the sick one is out after its first request
		c.get(t, "http://o.test/").expect(t, 200, "A")
	}
	if asked := sick.asked(); asked != 1 {
		t.Errorf("the sick one was asked %d times", asked)
	}
	tell(nil, "bad address")
	p.logs.wait(t, "the error of the source", func(l logLine) bool {
		return strings.Contains(l.str("error"), "dynamic: 'bad address' is not host:port")
	})
	c.get(t, "http://o.test/").expect(t, 200, "A")
	tell(nil, sick.addr, b.addr, a.addr)
	c.until(t, 200, "B")
	c.until(t, 200, "A")
	if sick.asked() != 1 {
		t.Error("the health of one that stays was forgotten")
	}
	if n := a.count(); n != 1 {
		t.Errorf("%d connections to the one that stayed, want 1", n)
	}
	tell(nil)
	c.until(t, 503, "")
}

// A request that comes before the first answer of the source waits for it. The source is
// asked with a deadline: it may hold locks meanwhile.
func TestUpstreamSource_FirstAnswer(t *testing.T) {
	checkLeaks(t)
	a, answer := newForwarder(t, "A"), newGate()
	tell(nil, a.addr)
	told.Lock()
	told.hold, told.unbounded = answer.c, false
	told.Unlock()
	t.Cleanup(func() {
		answer.open()
		told.Lock()
		told.hold = nil
		told.Unlock()
	})
	before := timesAsked()
	p := start(t, mode{access: true}, setup{egress: usual + "upstreams default {\n dynamic egress_test\n scheme http\n}\n"})
	c := p.client(t, "h1")
	eventually(t, "the source is asked", func() bool { return timesAsked() > before })
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		c.get(t, "http://o.test/").expect(t, 200, "A")
	}()
	select {
	case <-answered:
		t.Error("it did not wait")
	case <-time.After(200 * time.Millisecond): // there is no event of a request that waits
	}
	answer.open()
	await(t, answered, "the request")
	told.Lock()
	defer told.Unlock()
	if told.unbounded {
		t.Error("the source was asked without a deadline")
	}
}

// failing is an error with another text each time, as those with the port of a socket
// are.
type failing struct{ n atomic.Int64 }

func (f *failing) Error() string { return fmt.Sprintf("no answer %d", f.n.Add(1)) }

// That a source fails is told once, and not each time that it was asked.
func TestUpstreamSource_TellsOnce(t *testing.T) {
	checkLeaks(t)
	source := new(failing)
	tell(source)
	p := start(t, mode{}, setup{egress: usual + "upstreams default {\n dynamic egress_test\n scheme http\n}\n"})
	before := timesAsked()
	eventually(t, "the source is asked again", func() bool { return timesAsked() >= before+6 })
	if n := strings.Count(p.logs.all(), "dynamic source of upstreams failed"); n != 2 {
		t.Errorf("told %d times, want one of each site", n)
	}
}

// A request that chose a member just before it left the list is served, and so is one
// that has yet to choose when its configuration goes.
func TestUpstreamSource_LeavesUnderWay(t *testing.T) {
	checkLeaks(t)
	release, arrived := newGate(), make(chan struct{}, 10)
	a := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		arrived <- struct{}{}
		oc.hold(release.c)
		return false // so that another one must be chosen, of a group that is no more
	})
	b := newForwarder(t, "B")
	plain := freeAddr(t)
	p := start(t, mode{}, setup{plain: plain, egress: group("lb_policy first\n", a.addr, b.addr)})
	results := make(chan *rawResponse, 4)
	for i := range 4 {
		raw := p.dialPlain(t)
		raw.send(fmt.Sprintf("GET http://o.test/%d HTTP/1.1\r\nHost: x\r\n\r\n", i))
		go func() { results <- raw.response("GET") }()
		await(t, arrived, "the request")
	}
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		start(t, mode{}, setup{plain: plain, egress: usual})
	}()
	await(t, reloaded, "the reload")
	release.open()
	for range 4 {
		if r := await(t, results, "the response"); r.StatusCode != 200 || r.body != "B" {
			t.Errorf("%d %q", r.StatusCode, r.body)
		}
	}
}
