// Package integration holds the tests of the whole: a Caddy with egress in
// it, clients of every protocol in front of it, scripted origins behind it.
//
// Caddy is one per process, so no test here runs in parallel with another in the same
// process, except those that run a Caddy as a process of its own (process_test.go).
// Within one, what mostly waits runs at the same time (eachClientAtOnce), and all of
// them run in several processes (shards_test.go). Tests wait for events (a byte,
// a closed connection, a log line), never for the clock; the one duration that appears
// everywhere is patience, after which a test gives up.
package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/listening"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// patience is how long a test waits for something that must happen. It is long,
// for a machine that has much else to do: only a test that fails takes that long.
const patience = 30 * time.Second

// longPatience is how long a connection of a test lives, over which there are many steps.
const longPatience = 6 * patience

// openLoopback opens the addresses the origins of these tests listen on; the
// default denies close them.
const openLoopback = "acl {\n allow 127.0.0.0/8 ::1\n}\n"

func TestMain(m *testing.M) {
	flag.Parse()
	if sharded() {
		os.Exit(runShards())
	}
	// Caddy keeps its data below these; a test leaves nothing behind.
	dir, err := os.MkdirTemp("", "egress-integration-")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		os.Setenv(name, dir)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
		os.Unsetenv(name)
	}
	os.Setenv("OTEL_TRACES_EXPORTER", "none") // under the directive tracing
	// What runs at the same time mostly waits: more of it than there are
	// processors, unless the command line says otherwise.
	atOnce := true
	flag.Visit(func(f *flag.Flag) { atOnce = atOnce && f.Name != "test.parallel" })
	if atOnce {
		if err := flag.Set("test.parallel", "16"); err != nil {
			panic(err)
		}
	}
	binaries = filepath.Join(dir, "bin")
	if err := os.Mkdir(binaries, 0o700); err != nil {
		panic(err)
	}
	listening.Hide() // origins of these tests listen in this process
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// mode is what every protocol test is repeated over: access logging wraps
// request bodies and response writers, so a handler that works without it may
// fail with it.
type mode struct {
	name   string
	access bool
}

var modes = []mode{{"plain", false}, {"logged", true}}

// eachMode runs f once without and once with access logs, and holds it to
// leaving no goroutine behind.
func eachMode(t *testing.T, f func(t *testing.T, m mode)) {
	t.Helper()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			checkLeaks(t)
			f(t, m)
		})
	}
}

// checkLeaks fails the test if goroutines started during it are still there
// after everything registered later was cleaned up. Call it first.
func checkLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test that gave up leaves things behind
		}
		// The server of a configuration that has gone waits for connections on
		// which nothing was asked: net/http gives them five seconds.
		options := append(caddyBackground, before)
		err := goleak.Find(options...)
		for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
			err = goleak.Find(options...)
		}
		if err != nil {
			t.Errorf("goroutines left behind: %v", err)
		}
	})
}

// caddyBackground are goroutines that Caddy and its dependencies start once
// per process and never end.
var caddyBackground = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).permit"),
	goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
	goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
	goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	// Ends at its next tick, five seconds after its lock was released.
	goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
}

// proxy is a running Caddy. It has two servers with the same site: one in
// clear, one with TLS and HTTP/1.1, HTTP/2 and HTTP/3.
type proxy struct {
	mode   mode
	plain  string // 127.0.0.1:port, HTTP/1.1 in clear
	secure string // 127.0.0.1:port, TLS and QUIC
	logs   *logCapture

	storage string // where Caddy keeps its data
}

// setup is what differs between the configurations of the tests.
type setup struct {
	// egress is the body of the egress block, "" for the usual one.
	egress string
	// site holds further directives of the site.
	site string
	// servers is the body of the servers global option.
	servers string
	// global holds further global options.
	global string
	// plain is the address in clear, "" for a free one.
	plain string
	// bind6 binds ::1 too.
	bind6 bool
}

// usual is the configuration of most tests: open, towards loopback. Its hosts
// let HTTP/3 requests, whose scheme Caddy does not tell, be exchanges.
const usual = "allow_unauthenticated\nhosts proxy.test\n" + openLoopback

// start runs a Caddy with the given setup until the end of the test.
func start(t *testing.T, m mode, s setup) *proxy {
	t.Helper()
	p := &proxy{mode: m, plain: s.plain, secure: freeAddr(t), logs: newLogCapture(t), storage: t.TempDir()}
	if p.plain == "" {
		p.plain = freeAddr(t)
	}
	load(t, p.config(t, s))
	return p
}

// reload gives the running Caddy another setup.
func (p *proxy) reload(t *testing.T, s setup) {
	t.Helper()
	if err := tryLoad(t, p.config(t, s)); err != nil {
		t.Fatalf("reloading: %v", err)
	}
}

// config is the Caddyfile of a setup.
func (p *proxy) config(t *testing.T, s setup) string {
	t.Helper()
	if s.egress == "" {
		s.egress = usual
	}
	site := s.site + "\negress {\n" + s.egress + "\n}\n"
	if p.mode.access {
		site = "log\n" + site
	}
	bind := "bind 127.0.0.1"
	if s.bind6 {
		bind += " ::1"
	}
	cert, key := proxyCertFiles(t)
	global := globals{
		grace: "2s", storage: p.storage,
		more: "skip_install_trust\n" + s.global + "\n" + p.logs.asDefault("level DEBUG") + "\nservers {\n" + s.servers + "\n}",
	}
	return fmt.Sprintf(`%s
http://:%s {
	%s
	%s
}
https://:%s {
	%s
	tls %s %s
	%s
}
`, global, port(p.plain), bind, site, port(p.secure), bind, cert, key, site)
}

// plainSite is one more site in clear, to be put behind a config: what would be
// waited for in one Caddy after the other can then be waited for at once.
func plainSite(addr, site, egress string) string {
	return fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n %s egress {\n%s\n}\n}\n", port(addr), site, egress)
}

// startUsual runs the usual configuration.
func startUsual(t *testing.T, m mode) *proxy {
	t.Helper()
	return start(t, m, setup{})
}

// load adapts and runs a Caddyfile until the end of the test.
func load(t testing.TB, text string) {
	t.Helper()
	if err := tryLoad(t, text); err != nil {
		t.Fatalf("loading: %v\n%s", err, text)
	}
	t.Cleanup(func() {
		takeBackOrders()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
}

// takeBackOrders takes back what a test has ordered by the admin API: orders are of the
// process, and would go on into the next test, and its storage.
func takeBackOrders() {
	for id := range orders.Of.Upstreams() {
		_, saving, _ := orders.Of.Change(id, orders.Order{}, func(o *orders.Order) error {
			o.Admin, o.Weight = health.Ready, 1
			return nil
		})
		if saving != nil {
			_ = saving()
		}
	}
	if saving := orders.Of.SetEmergency(nil, "a test"); saving != nil {
		_ = saving()
	}
}

// tryLoad adapts and runs a Caddyfile, and returns what went wrong. When it returns,
// who connects is served by that configuration.
func tryLoad(t testing.TB, text string) error {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{
		"filename": filepath.Join(t.TempDir(), "Caddyfile"),
	})
	if err != nil {
		return err
	}
	if config, err = withQUICOrder(config); err != nil {
		return err
	}
	defer afterLoad()
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	var loaded struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct{ Listen []string }
			}
		}
	}
	if err := json.Unmarshal(config, &loaded); err != nil {
		return err
	}
	for _, server := range loaded.Apps.HTTP.Servers {
		for _, addr := range server.Listen {
			awaitOneListener(t, addr)
		}
	}
	return nil
}

// freeAddr returns an address of 127.0.0.1 whose port is free for TCP and UDP.
func freeAddr(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// port is the port of an address, as text.
func port(addr string) string {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	if _, err := strconv.ParseUint(p, 10, 16); err != nil {
		panic(err)
	}
	return p
}

// await receives from c, or fails the test after its patience.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// startAt is start for a configuration that names the proxy's own address.
func startAt(t *testing.T, m mode, egress func(plain string) string) *proxy {
	t.Helper()
	plain := freeAddr(t)
	return start(t, m, setup{plain: plain, egress: egress(plain)})
}

// eventually waits until what ok looks at is as it should be.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
