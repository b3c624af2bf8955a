//go:build linux

package peers_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin is a TCP server that echoes.
func origin(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// connect sends a CONNECT and returns the status.
func connect(t *testing.T, c net.Conn, dst, extra string) (int, *bufio.Reader) {
	t.Helper()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n%s\r\n", dst, extra)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, r
}

func echo(t *testing.T, c net.Conn, r io.Reader) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "hello" {
		t.Fatalf("echo: %q, %v", b, err)
	}
}

func basic(user, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
}

func TestConnectThroughHTTPProxies(t *testing.T) {
	cases := map[string]func(t *testing.T, user string) *peers.Peer{
		"squid": func(t *testing.T, user string) *peers.Peer {
			return peertest.Squid(t, peers.SquidOptions{User: user, Password: "pass word"})
		},
		"tinyproxy": func(t *testing.T, user string) *peers.Peer {
			return peertest.Tinyproxy(t, peers.TinyproxyOptions{User: user, Password: "password"})
		},
	}
	password := map[string]string{"squid": "pass word", "tinyproxy": "password"}
	for name, start := range cases {
		t.Run(name, func(t *testing.T) {
			dst := origin(t)
			c := dial(t, start(t, "").Addr)
			status, r := connect(t, c, dst, "")
			if status != 200 {
				t.Fatalf("status %d", status)
			}
			echo(t, c, r)
		})
		t.Run(name+" with a password", func(t *testing.T) {
			dst := origin(t)
			p := start(t, "bob")
			for extra, want := range map[string]int{
				"":                               407,
				basic("bob", "wrong"):            407,
				basic("bob", password[name]):     200,
				basic("alice", password[name]):   407,
				basic("bob", password[name]+"x"): 407,
			} {
				status, _ := connect(t, dial(t, p.Addr), dst, extra)
				if status != want && (name != "tinyproxy" || status != 401 || want != 407) {
					t.Errorf("%q: status %d, want %d", extra, status, want)
				}
			}
		})
	}
}

func TestSquidTakesTheClientFromTheProxyProtocol(t *testing.T) {
	dst := origin(t)
	p := peertest.Squid(t, peers.SquidOptions{
		ProxyProtocol: true,
		Config:        []string{"acl stranger src 192.0.2.7", "http_access deny stranger"},
	})
	for client, want := range map[string]int{"192.0.2.7": 403, "192.0.2.8": 200} {
		c := dial(t, p.Addr)
		fmt.Fprintf(c, "PROXY TCP4 %s 127.0.0.1 4000 80\r\n", client)
		if status, _ := connect(t, c, dst, ""); status != want {
			t.Errorf("%s: status %d, want %d", client, status, want)
		}
	}
}

func TestProtocolsOverTLS(t *testing.T) {
	squid := peertest.Squid(t, peers.SquidOptions{TLS: true})
	backend := peertest.Squid(t, peers.SquidOptions{})
	nghttpx := peertest.Nghttpx(t, peers.NghttpxOptions{Backend: backend.Addr})
	cases := []struct {
		name  string
		peer  *peers.Peer
		offer []string
		want  string
	}{
		{"squid", squid, []string{"http/1.1"}, "http/1.1"},
		{"nghttpx", nghttpx, []string{"h2", "http/1.1"}, "h2"},
		{"nghttpx without h2", nghttpx, []string{"http/1.1"}, "http/1.1"},
	}
	dst := origin(t)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := tls.Client(dial(t, tc.peer.Addr), &tls.Config{
				RootCAs: tc.peer.RootCAs, ServerName: "127.0.0.1", NextProtos: tc.offer,
			})
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			// squid speaks HTTP/1.1 whether it says so or not
			got := c.ConnectionState().NegotiatedProtocol
			if got != tc.want && (tc.name != "squid" || got != "") {
				t.Fatalf("negotiated %q, want %q", got, tc.want)
			}
			if tc.want == "h2" {
				return // a CONNECT over h2 is tested where one is written
			}
			status, r := connect(t, c, dst, "")
			if status != 200 {
				t.Fatalf("status %d", status)
			}
			echo(t, c, r)
		})
	}
}

func TestMicrosocksAsksForAPassword(t *testing.T) {
	open := peertest.Microsocks(t, peers.MicrosocksOptions{})
	closed := peertest.Microsocks(t, peers.MicrosocksOptions{User: "bob", Password: "secret"})
	for _, tc := range []struct {
		peer *peers.Peer
		want byte
	}{{open, 0}, {closed, 2}} {
		c := dial(t, tc.peer.Addr)
		_, _ = c.Write([]byte{5, 2, 0, 2})
		answer := make([]byte, 2)
		if _, err := io.ReadFull(c, answer); err != nil || answer[1] != tc.want {
			t.Errorf("method %d, %v; want %d", answer[1], err, tc.want)
		}
	}
}

func TestPauseIsABlackHole(t *testing.T) {
	dst := origin(t)
	p := peertest.Squid(t, peers.SquidOptions{User: "bob", Password: "x"})
	c := dial(t, p.Addr)
	status, r := connect(t, c, dst, basic("bob", "x")) // now it has a helper, too
	if status != 200 {
		t.Fatal(status)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range tree(t, p.PID()) {
		if s := state(pid); s != "T" {
			t.Errorf("process %d is in state %s, want T", pid, s)
		}
	}
	if n := len(tree(t, p.PID())); n < 2 {
		t.Errorf("%d processes, want squid and its helper", n)
	}
	other := dial(t, p.Addr) // the kernel accepts
	fmt.Fprintf(other, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n%s\r\n", dst, basic("bob", "x"))
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	echo(t, c, r)
	if line, err := bufio.NewReader(other).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("after Resume: %q, %v", line, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	for name, end := range map[string]func(*peers.Peer){
		"stop":              (*peers.Peer).Stop,
		"kill":              (*peers.Peer).Kill,
		"stop after pause":  func(p *peers.Peer) { _ = p.Pause(); p.Stop() },
		"kill after pause":  func(p *peers.Peer) { _ = p.Pause(); p.Kill() },
		"kill after a kill": func(p *peers.Peer) { _ = syscall.Kill(p.PID(), syscall.SIGKILL); <-p.Done(); p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "") // that of the test is closed to squid's helper
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			_ = os.Chmod(dir, 0o755)
			p, err := peers.StartSquid(t.Context(), dir, peers.SquidOptions{User: "bob", Password: "x"})
			if errors.Is(err, peers.ErrNotInstalled) {
				peertest.Squid(t, peers.SquidOptions{}) // skips, or fails
			}
			if err != nil {
				t.Fatal(err)
			}
			pids := tree(t, p.PID())
			end(p)
			end(p)
			for _, pid := range pids {
				if s := state(pid); s != "" && s != "Z" && name != "kill after a kill" {
					t.Errorf("process %d lives on in state %s", pid, s)
				}
			}
			if _, err := net.Dial("tcp", p.Addr); err == nil {
				t.Error("somebody still listens")
			}
			for _, pattern := range []string{dir + "/*", "/dev/shm/peer" + port(p) + "-*"} {
				if left, _ := filepath.Glob(pattern); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
}

func TestTheEndOfTheContextKills(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := peers.StartMicrosocks(ctx, t.TempDir(), peers.MicrosocksOptions{})
	if errors.Is(err, peers.ErrNotInstalled) {
		peertest.Microsocks(t, peers.MicrosocksOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-p.Done()
	p.Stop()
}

func TestAProgramThatEndsEarlySaysWhy(t *testing.T) {
	_, err := peers.StartSquid(t.Context(), "", peers.SquidOptions{Config: []string{"no_such_directive on", "acl x nonsense"}})
	if errors.Is(err, peers.ErrNotInstalled) {
		peertest.Squid(t, peers.SquidOptions{})
	}
	if err == nil || !strings.Contains(err.Error(), "start squid: it ended before it listened; it said:") ||
		!strings.Contains(err.Error(), "nonsense") {
		t.Fatal(err)
	}
}

func TestAMissingProgramNamesItsPackage(t *testing.T) {
	if _, err := os.Stat("/usr/local/sbin/tinyproxy"); err == nil {
		t.Skip("there is one outside the PATH")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := peers.StartTinyproxy(t.Context(), "", peers.TinyproxyOptions{})
	want := "peer is not installed: tinyproxy (Debian: apt-get install tinyproxy-bin)"
	if !errors.Is(err, peers.ErrNotInstalled) || err.Error() != want {
		t.Fatalf("%v, want %s", err, want)
	}
}

func port(p *peers.Peer) string {
	_, port, _ := net.SplitHostPort(p.Addr)
	return port
}

// tree returns a process and its descendants.
func tree(t *testing.T, root int) []int {
	t.Helper()
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[i]))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(b)) {
			var pid int
			_, _ = fmt.Sscan(f, &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// state is the letter of /proc/PID/stat, or empty.
func state(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return strings.Fields(string(b[strings.LastIndex(string(b), ")")+1:]))[0]
}
