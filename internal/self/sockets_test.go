package self

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/listening"
)

// needsKernel skips a test where the kernel does not tell what listens.
func needsKernel(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("own listeners are known by their configuration here")
	}
}

// scanAll asks the kernel also where that is hidden from other tests.
func scanAll() *socketList { return listOf(listening.Scan()) }

// noConfig is that no configuration is active.
func noConfig() <-chan struct{} { return nil }

// unknownToCaddy is a check to which Caddy and the configuration tell nothing.
func unknownToCaddy() *Check {
	s := New(Config{Usage: func(string, string) int { return 0 }, Active: noConfig})
	s.dials = new(ownDials)
	return s
}

// Sockets are recognised by what they are bound to, whoever has opened them: those
// that came as descriptors, and those of other parts of the program.
func TestIsSelf_AsTheKernelHasIt(t *testing.T) {
	needsKernel(t)
	for _, tc := range []struct {
		network, listen string
		self, others    []string
	}{
		{"tcp4", "127.0.0.1:0", []string{"127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "64:ff9b::7f00:1"}, []string{"127.0.0.2", "::1"}},
		{"tcp4", "0.0.0.0:0", []string{"127.0.0.1", "127.8.9.10"}, []string{"192.0.2.77"}},
		{"tcp", "[::]:0", []string{"127.0.0.1", "::1"}, []string{"2001:db8::77"}},
		{"tcp6", "[::1]:0", []string{"::1", "::"}, []string{"127.0.0.1"}},
	} {
		t.Run(tc.network+" "+tc.listen, func(t *testing.T) {
			s := unknownToCaddy()
			ln, err := net.Listen(tc.network, tc.listen)
			if err != nil {
				t.Skip(err)
			}
			defer ln.Close()
			s.sockets = &ownSockets{scan: scanAll} // it was opened a while ago
			port := uint16(ln.Addr().(*net.TCPAddr).Port)
			for _, a := range tc.self {
				if !s.IsSelf(netip.MustParseAddr(a), port) {
					t.Errorf("%s is not recognised", a)
				}
			}
			for _, a := range tc.others {
				if s.IsSelf(netip.MustParseAddr(a), port) {
					t.Errorf("%s is taken for our own", a)
				}
			}
			ln.Close()
			// A list that took long to make is good for a while.
			for deadline := time.Now().Add(30 * time.Second); s.IsSelf(netip.MustParseAddr(tc.self[0]), port); {
				if time.Now().After(deadline) {
					t.Fatal("recognised after it was closed")
				}
				runtime.Gosched()
			}
		})
	}
}

// A listener that was opened after the last list was made is found when that is old,
// and at once when the configuration has changed.
func TestOwnSockets_NewListener(t *testing.T) {
	opened := newSocketList()
	a := netip.MustParseAddrPort("127.0.0.1:80")
	opened.add(a, false)
	next := newSocketList()
	o := &ownSockets{scan: func() *socketList { return next }}
	if o.now(false, nil).reaches(a.Addr(), a.Port()) {
		t.Fatal("known before it was opened")
	}
	next = opened
	if o.now(false, nil).reaches(a.Addr(), a.Port()) {
		t.Error("a list was made for each look")
	}
	o.last().config = make(chan struct{}) // that of another one
	if !o.now(false, nil).reaches(a.Addr(), a.Port()) {
		t.Error("not found after a change of the configuration")
	}
	next = newSocketList()
	o.last().begun = time.Now().Add(-time.Hour)
	if o.now(false, nil).reaches(a.Addr(), a.Port()) {
		t.Error("an old list is still used")
	}
	next = nil // no descriptor is left
	o.last().begun = time.Now().Add(-time.Hour)
	if o.now(false, nil) == nil {
		t.Error("what was known is forgotten")
	}
}

// A unix socket of our own is recognised by its path, also through a link.
func TestOwnsPath(t *testing.T) {
	needsKernel(t)
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, "own.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	linked := t.TempDir() + "/link"
	if err := os.Symlink(dir, linked); err != nil {
		t.Fatal(err)
	}
	s := unknownToCaddy()
	s.sockets = &ownSockets{scan: scanAll}
	for path, want := range map[string]bool{
		filepath.Join(dir, "own.sock"):    true,
		filepath.Join(linked, "own.sock"): true,
		filepath.Join(dir, "other.sock"):  false,
	} {
		if got := s.OwnsPath(path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

// A request that comes over a connection which this process has dialed is recognised
// as long as that is open; one of another client is not, and neither is one to an
// address that a rule opens.
func TestIsOwnDial(t *testing.T) {
	s := unknownToCaddy()
	own := make(chan bool, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { own <- s.IsOwnDial(r) })}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	dial := func() *net.TCPConn {
		conn, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.TCPConn)
	}
	ask := func(conn net.Conn) bool {
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		return <-own
	}
	mine, other := dial(), dial()
	s.Dialed(mine, false)
	if !ask(mine) {
		t.Error("the own connection is not recognised")
	}
	if ask(other) {
		t.Error("a client's connection is taken for our own")
	}
	ends := link{addrPort(mine.LocalAddr()), addrPort(mine.RemoteAddr())}
	mine.Close()
	if s.dials.has(ends) {
		t.Error("recognised after it was closed")
	}
}
