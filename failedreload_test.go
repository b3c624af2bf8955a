package egress

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/testkit/freeport"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what a configuration leaves behind that fails half-way, and what
// many that succeed do.

func init() { caddy.RegisterModule(failingHandler{}) }

// failingHandler is a handler behind ours that fails as it is told.
type failingHandler struct {
	At string `json:"at,omitempty"`
}

func (failingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.egress_test_failing", New: func() caddy.Module { return new(failingHandler) }}
}

func (f *failingHandler) Provision(caddy.Context) error { return f.failAt("provision") }

func (f *failingHandler) Validate() error { return f.failAt("validate") }

func (f *failingHandler) failAt(step string) error {
	if f.At == step {
		return errors.New("told to fail")
	}
	return nil
}

func (failingHandler) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	return nil
}

// usagePools are all in which state outlives a configuration.
var usagePools = map[string]interface{ Holders() map[string]int }{
	"pools": origin.Shared, "nameStates": dial.SharedNames, "exitStates": exitStates, "tunnelBooks": tunnels.Books,
	"upstreamHealths": upstream.SharedHealth, "upstreamPools": upstream.SharedConns, "sources": upstream.SharedTold,
}

// heldStates is how often each state is held.
func heldStates() map[string]int {
	all := make(map[string]int)
	for name, pool := range usagePools {
		for key, n := range pool.Holders() {
			all[name+" "+key] = n
		}
	}
	identitiesMu.Lock()
	all["identities"] = len(configs)
	identitiesMu.Unlock()
	all["handlers"] = len(servingHandlers())
	return all
}

// awaitNothingHeld waits for the end of what tests before have left: a tunnel that ends, or
// a probe that runs on without its client.
func awaitNothingHeld(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		held := heldStates()
		maps.DeleteFunc(held, func(_ string, n int) bool { return n == 0 })
		if len(held) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a test before holds %v", held)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // this system does not tell
	}
	return len(entries)
}

// liveSite is a running Caddy with one proxy, its traffic and a tunnel.
type liveSite struct {
	*testing.T
	addr, origin string
	client       *http.Client
	tunnel       net.Conn
	dir          string
}

// config is a configuration with these servers, which are JSON.
func liveConfig(servers ...string) []byte {
	var named []string
	for i, s := range servers {
		named = append(named, fmt.Sprintf(`"s%d":%s`, i, s))
	}
	return []byte(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},` +
		`"apps":{"http":{"servers":{` + strings.Join(named, ",") + `}}}}`)
}

// liveServer is a server with these handlers, which are JSON.
func liveServer(addr string, handlers ...string) string {
	return fmt.Sprintf(`{"listen":[%q],"automatic_https":{"disable":true},"protocols":["h1"],"routes":[{"handle":[%s]}]}`, addr, strings.Join(handlers, ","))
}

// egressJSON is a handler of ours with a group, and these fields.
func egressJSON(dir, fields string) string {
	return fmt.Sprintf(`{"handler":"egress","allow_unauthenticated":true,`+
		`"acl":[{"allow":true,"subjects":["127.0.0.0/8"]},{"files":[%q]}],`+
		`"routes":[{"match":[{"header":{"X-Via":["parent"]}}],"to":"parents"},{"to":"direct"}],`+
		`"groups":{"parents":{"file":%q,"upstreams":[{"url":"http://127.0.0.1:1","standby":1}],"health_checks":{"active":{"type":"tcp","interval":"1h"}}}}%s}`,
		filepath.Join(dir, "denied"), filepath.Join(dir, "parents"), fields)
}

func startLive(t *testing.T) *liveSite {
	s := &liveSite{T: t, dir: t.TempDir(), addr: unusedAddr(t)}
	for name, content := range map[string]string{"denied": "*.denied.test\n", "parents": "127.0.0.1:2\n", "bad": "127.0.0.1:80\nnot an upstream\n", "badlist": "10.0.0.0/99\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s.origin = ln.Addr().String()
	go func() { // an origin that says pong to each line that ends a head, or is a ping
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
				for {
					line, err := br.ReadString('\n')
					switch {
					case err != nil:
						return
					case strings.HasPrefix(line, "CONNECT "): // as an upstream
						answer = "HTTP/1.1 200 OK\r\n\r\n"
					case line == "ping\n":
						_, _ = io.WriteString(c, "pong\n")
					case line == "\r\n":
						_, _ = io.WriteString(c, answer)
					}
				}
			}()
		}
	}()
	if err := caddy.Load(liveConfig(liveServer(s.addr, egressJSON(s.dir, ""))), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: s.addr})}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	if s.tunnel, err = net.Dial("tcp", s.addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.tunnel.Close() })
	fmt.Fprintf(s.tunnel, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.origin, s.origin)
	resp, err := http.ReadResponse(bufio.NewReaderSize(s.tunnel, 16), &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	s.works()
	return s
}

func unusedAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// works holds the site to serving, on its connections of before.
func (s *liveSite) works() {
	s.Helper()
	resp, err := s.client.Get("http://" + s.origin + "/")
	for end := time.Now().Add(20 * time.Second); errors.Is(err, syscall.ECONNRESET) && time.Now().Before(end); {
		// It waited at the listener of the configuration before, which closes behind a
		// reload (docs/reliability.md).
		resp, err = s.client.Get("http://" + s.origin + "/")
	}
	if err != nil {
		s.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body) // to its end, so that the connection is kept
	resp.Body.Close()
	if resp.StatusCode != 200 || string(body) != "ok" || err != nil {
		s.Errorf("status %d, %q, %v", resp.StatusCode, body, err)
	}
	s.ping()
}

// ping holds the tunnel to being there.
func (s *liveSite) ping() {
	s.Helper()
	_ = s.tunnel.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(s.tunnel, "ping\n")
	pong := make([]byte, 5)
	if _, err := io.ReadFull(s.tunnel, pong); err != nil || string(pong) != "pong\n" {
		s.Errorf("tunnel: %q, %v", pong, err)
	}
}

// A configuration that fails, wherever that is, leaves the running one as it is, and
// nothing of itself.
func TestFailedReload(t *testing.T) {
	s := startLive(t)
	good, fresh := egressJSON(s.dir, ""), egressJSON(s.dir, `,"server_name":"fresh","transport":{"max_conns_per_host":3}`)
	other := unusedAddr(t)
	swap := func(what, with string) string {
		if !strings.Contains(fresh, what) {
			t.Fatalf("nothing to change: %s", what)
		}
		return strings.Replace(fresh, what, with, 1)
	}
	tests := map[string]struct {
		config []byte
		says   string
	}{
		"acl file":         {liveConfig(liveServer(s.addr, swap("/denied", "/badlist"))), "badlist"},
		"no acl file":      {liveConfig(liveServer(s.addr, swap("/denied", "/missing"))), "missing"},
		"unknown group":    {liveConfig(liveServer(s.addr, swap(`"to":"parents"`, `"to":"nobody"`))), "nobody"},
		"selection policy": {liveConfig(liveServer(s.addr, swap(`"upstreams":`, `"load_balancing":{"selection_policy":{"policy":"none"}},"upstreams":`))), "none"},
		"group file":       {liveConfig(liveServer(s.addr, swap("/parents", "/bad"))), "bad:2: not a URL"},
		"member":           {liveConfig(liveServer(s.addr, swap(`"standby":1`, `"standby":-2`))), "standby"},
		"twice":            {liveConfig(liveServer(s.addr, swap(`"upstreams":[`, `"upstreams":[{"url":"http://127.0.0.1:1"},`))), "twice"},
		"circuit":          {liveConfig(liveServer(s.addr, swap(`"upstreams":`, `"circuit":{"max_ejected":2},"upstreams":`))), "max_ejected"},
		"checks":           {liveConfig(liveServer(s.addr, swap(`"interval":"1h"`, `"interval":"-1h"`))), "interval"},
		"tls of a group":   {liveConfig(liveServer(s.addr, swap(`"upstreams":`, `"tls":{"ca":{"provider":"none"}},"upstreams":`))), "none"},
		"transport":        {liveConfig(liveServer(s.addr, swap(`"max_conns_per_host":3`, `"max_conns_per_host":-3`))), "max_conns_per_host"},
		"tls":              {liveConfig(liveServer(s.addr, swap(`"max_conns_per_host":3`, `"tls":{"ca":{"provider":"none"}}`))), "none"},
		"local address":    {liveConfig(liveServer(s.addr, swap(`"max_conns_per_host":3`, `"local_addresses":["x"]`))), "local_addresses"},
		"resolver":         {liveConfig(liveServer(s.addr, swap(`"max_conns_per_host":3`, `"hosts_override":{"a":["x"]}`))), "hosts_override"},
		"tunnel":           {liveConfig(liveServer(s.addr, swap(`"server_name":"fresh"`, `"tunnel":{"max_tunnels":-3}`))), "max_tunnels"},
		"validate":         {liveConfig(liveServer(s.addr, swap(`"server_name":"fresh"`, `"auth":{}`))), "names no users"},
		"later handler":    {liveConfig(liveServer(s.addr, fresh, `{"handler":"egress_test_failing","at":"provision"}`)), "told to fail"},
		"later validation": {liveConfig(liveServer(s.addr, fresh, `{"handler":"egress_test_failing","at":"validate"}`)), "told to fail"},
		"same, later":      {liveConfig(liveServer(s.addr, good, `{"handler":"egress_test_failing","at":"provision"}`)), "told to fail"},
		"second handler":   {liveConfig(liveServer(s.addr, good, swap(`"to":"parents"`, `"to":"nobody"`))), "nobody"},
		"second server":    {liveConfig(liveServer(s.addr, good), liveServer(other, swap("/parents", "/bad"))), "bad:2: not a URL"},
		"app":              {append(liveConfig(liveServer(s.addr, fresh))[:len(liveConfig(liveServer(s.addr, fresh)))-2], `,"tls":{"certificates":{"load_files":[{"certificate":"/missing","key":"/missing"}]}}}}`...), "missing"},
		"port in use":      {liveConfig(liveServer(s.addr, fresh), liveServer("192.0.2.1:1", good)), "192.0.2.1"},
	}
	// Once, for what Caddy itself starts with the first configuration of a kind.
	for _, tc := range tests {
		_ = caddy.Load(tc.config, true)
	}
	s.works()
	before, files := heldStates(), openFiles(t)
	goroutines := goleak.IgnoreCurrent()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if !json.Valid(tc.config) {
				t.Fatalf("not JSON: %s", tc.config)
			}
			for range 3 {
				err := caddy.Load(tc.config, true)
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Fatalf("got %v, want something about %s", err, tc.says)
				}
			}
			s.works()
			if after := heldStates(); !maps.Equal(after, before) {
				t.Errorf("held after it\n%v\nbefore\n%v", after, before)
			}
			// Caddy cleans its storage once a day, and lets go of the lock some seconds later.
			if err := goleak.Find(goroutines, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")); err != nil {
				t.Errorf("goroutines: %v", err)
			}
			awaitFiles(t, files)
		})
	}
}

// Tunnels of a handler that is gone are not given another delay by configurations that
// have the handler and fail, however they do; one that runs, and goes, gives them its own.
func TestFailedReload_KeepsCloseDelay(t *testing.T) {
	s := startLive(t)
	book := servingHandlers()[0].proxy.Tunnels.Value
	with := func(delay string) string { return egressJSON(s.dir, `,"tunnel":{"close_delay":"`+delay+`"}`) }
	load := func(works bool, handlers ...string) {
		t.Helper()
		if err := caddy.Load(liveConfig(liveServer(s.addr, handlers...)), true); (err == nil) != works {
			t.Fatal(err)
		}
	}
	expect := func(delay, within time.Duration) {
		t.Helper()
		deadline := book.Report().Deadline
		if deadline.IsZero() {
			t.Fatalf("no end is set, want one in %s", delay)
		}
		if left := time.Until(deadline); left > delay || left < delay-within {
			t.Errorf("the end is in %s, want %s", left, delay)
		}
	}
	gone := `{"handler":"egress_test_failing"}`
	load(true, with("1h"))
	load(true, gone)
	expect(time.Hour, 10*time.Minute)
	for _, at := range []string{"provision", "validate"} {
		load(false, with("3h"), `{"handler":"egress_test_failing","at":"`+at+`"}`)
		expect(time.Hour, 10*time.Minute)
	}
	s.ping()
	load(true, with("5h"))
	load(false, with("3h"), `{"handler":"egress_test_failing","at":"provision"}`)
	s.works()
	load(true, gone)
	expect(5*time.Hour, 10*time.Minute)
	s.ping()
}

// awaitFiles waits until no more files are open than there were.
func awaitFiles(t *testing.T, most int) {
	t.Helper()
	n := openFiles(t)
	for end := time.Now().Add(10 * time.Second); n > most; n = openFiles(t) {
		if time.Now().After(end) {
			t.Errorf("%d files are open, before there were %d", n, most)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// However often the configuration changes, each state is held once for each handler
// that runs, and nothing is held when none does.
func TestReloads_HoldNothing(t *testing.T) {
	awaitNothingHeld(t)
	start := heldStates()
	t.Run("reloads", func(t *testing.T) {
		s := startLive(t)
		configs := [][]byte{
			liveConfig(liveServer(s.addr, egressJSON(s.dir, `,"server_name":"a"`))),
			liveConfig(liveServer(s.addr, egressJSON(s.dir, `,"destination_circuit":{"failures":9}`), egressJSON(s.dir, ""))),
			liveConfig(liveServer(s.addr, egressJSON(s.dir, `,"transport":{"max_conns_per_host":3}`))),
			liveConfig(liveServer(s.addr, egressJSON(s.dir, ""))),
		}
		if err := caddy.Load(configs[3], true); err != nil {
			t.Fatal(err)
		}
		before := heldStates() // the tunnel, of the first configuration, has a part of its own
		for i := range 200 {
			if err := caddy.Load(configs[i%len(configs)], true); err != nil {
				t.Fatal(err)
			}
			if i%len(configs) == len(configs)-1 {
				if after := heldStates(); !maps.Equal(after, before) {
					t.Fatalf("after %d reloads\n%v\nbefore\n%v", i+1, after, before)
				}
			}
		}
		s.ping()
	})
	// The tunnel holds its book until it has seen its end.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		n := heldStates()
		if maps.Equal(n, start) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("held at the end\n%v\nat the start\n%v", n, start)
		}
	}
}
