//go:build unix

package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// The environment of the process that TestDescriptorPressure starts: the origins
// it talks to, and whether it has its limit already.
const (
	pressureOrigins = "EGRESS_TEST_ORIGINS"
	pressureLimited = "EGRESS_TEST_LIMITED"
)

// descriptorsOfTest is the limit of the process under test.
const descriptorsOfTest = 240

// upstream.md §1: idle connections never take more than a quarter of the
// descriptors, and where others have taken the rest, exchanges, tunnels and upstreams
// get one that an idle connection held.
func TestDescriptorPressure(t *testing.T) {
	switch {
	case os.Getenv(pressureOrigins) == "":
		runUnderPressure(t)
	case os.Getenv(pressureLimited) == "":
		limitDescriptors(t)
	default:
		testUnderPressure(t, strings.Split(os.Getenv(pressureOrigins), " "))
	}
}

// runUnderPressure runs this test in a process of its own. The origins stay
// here, where there are descriptors for them.
func runUnderPressure(t *testing.T) {
	var origins []string
	for range descriptorsOfTest/descriptors.IdleShare + 20 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
		defer s.Close()
		origins = append(origins, s.Listener.Addr().String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDescriptorPressure$", "-test.v")
	cmd.Env = append(os.Environ(), pressureOrigins+"="+strings.Join(origins, " "))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDescriptorPressure") {
		t.Errorf("%v\n%s", err, out)
	}
}

// limitDescriptors starts the program anew under the limit, which is read once
// at its start.
func limitDescriptors(t *testing.T) {
	limit := syscall.Rlimit{Cur: descriptorsOfTest, Max: descriptorsOfTest}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Fatal(syscall.Exec(os.Args[0], os.Args, append(os.Environ(), pressureLimited+"=1")))
}

func testUnderPressure(t *testing.T, origins []string) {
	const share = descriptorsOfTest / descriptors.IdleShare
	h, _ := mustLoadModule(t, `{"acl": [{"subjects": ["127.0.0.0/8"], "allow": true}]}`)
	get := func(origin string) {
		t.Helper()
		w := httptest.NewRecorder()
		err := h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+origin+"/", nil), caddyhttp.HandlerFunc(nil))
		if err != nil || w.Code != 200 || w.Body.String() != "ok" {
			t.Fatalf("%s: %d %q %s, error %v", origin, w.Code, w.Body, w.Header().Get("Proxy-Status"), err)
		}
	}
	last := len(origins) - 2
	for i, origin := range origins[:last] {
		get(origin)
		if n := descriptors.Idle.Idle(); n != min(i+1, share) {
			t.Fatalf("%d connections idle after %d origins", n, i+1)
		}
	}

	var files []*os.File
	fill := func() {
		for {
			f, err := os.Open(os.DevNull)
			if errors.Is(err, syscall.EMFILE) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			files = append(files, f)
		}
	}
	fill()
	get(origins[last])
	if n := descriptors.Idle.Idle(); n != share-descriptors.ReclaimBatch+1 {
		t.Errorf("%d connections idle after an exchange without a descriptor", n)
	}
	fill()
	dest, err := target.ParseAuthority(origins[last+1])
	if err != nil {
		t.Fatal(err)
	}
	conn, err := h.proxy.Direct.Dial(t.Context(), dest, false) // as for a tunnel
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	fill()
	idle := descriptors.Idle.Idle()
	if conn, err = h.proxy.Direct.ForUpstreams().DialUpstream(t.Context(), dest.Host, dest.Port); err != nil {
		t.Fatalf("to an upstream: %v", err)
	}
	conn.Close()
	if n := descriptors.Idle.Idle(); n != idle-min(idle, descriptors.ReclaimBatch) {
		t.Errorf("%d connections idle after %d and a dial to an upstream", n, idle)
	}
	if h.proxy.Pins.Most() > share {
		t.Errorf("%d connections may be pinned", h.proxy.Pins.Most())
	}

	// With nothing left to close, the limit is ours, and the answer says so.
	descriptors.Idle.Reclaim(share)
	fill()
	var op *net.OpError
	if _, err := h.proxy.Direct.Dial(context.Background(), dest, false); !errors.As(err, &op) || failure.Of(err) != failure.Limit {
		t.Errorf("without any descriptor: %v", err)
	}
	// The last ones are for clients, so that they can be told.
	const reserve = descriptorsOfTest / descriptors.ReserveShare
	slices.SortFunc(files, func(a, b *os.File) int { return int(a.Fd()) - int(b.Fd()) })
	for i := range reserve + 5 {
		files[len(files)-1-i].Close()
		if i == reserve/2 {
			resolversLeaveTheReserve(t)
		}
		switch conn, err := h.proxy.Direct.Dial(context.Background(), dest, false); {
		case err == nil:
			conn.Close()
			if i < reserve {
				t.Fatalf("with %d free descriptors: dialed", i+1)
			}
		case failure.Of(err) != failure.Limit || i > reserve+2: // a dial may need more than one
			t.Fatalf("with %d free descriptors: %v", i+1, err)
		}
	}
}

// resolversLeaveTheReserve checks that questions take no descriptor when only those for
// clients are left.
func resolversLeaveTheReserve(t *testing.T) {
	t.Helper()
	to := netip.MustParseAddrPort("127.0.0.1:53")
	sourced, err := dial.NewSources([]string{"127.0.0.1"}, "", "", dial.Orders["6"])
	if err != nil {
		t.Fatal(err)
	}
	for name, dial := range map[string]func() (net.Conn, error){
		"a DNS server":                      func() (net.Conn, error) { return (*dial.Sources)(nil).DialResolver()(t.Context(), "udp", to) },
		"a DNS server from a local address": func() (net.Conn, error) { return sourced.DialResolver()(t.Context(), "tcp", to) },
		"the system's":                      func() (net.Conn, error) { return systemResolver.Dial(t.Context(), "udp", to.String()) },
	} {
		if conn, err := dial(); err == nil || !descriptors.Out(err) {
			t.Errorf("to %s: %v", name, err)
			if err == nil {
				conn.Close()
			}
		}
	}
}
