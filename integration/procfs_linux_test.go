package integration

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// awaitSynSent waits until so many sockets of this machine are connecting to
// addr.
func awaitSynSent(t *testing.T, addr string, want int) {
	t.Helper()
	host, p, err := net.SplitHostPort(addr)
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("address %q", addr)
	}
	n, _ := strconv.Atoi(p)
	remote := fmt.Sprintf(" 0100007F:%04X 02 ", n)
	eventually(t, fmt.Sprintf("%d sockets that connect to %s", want, addr), func() bool {
		b, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Skip(err)
		}
		return strings.Count(string(b), remote) == want
	})
}

// awaitOneListener waits until one socket of this machine listens on addr, where that
// is one of 127.0.0.1. A reload returns when the new server listens, and the old one
// may still do so: what it has accepted by then it serves, with the old configuration,
// and what waits to be accepted when it stops is reset.
func awaitOneListener(t testing.TB, addr string) {
	t.Helper()
	host, p, err := net.SplitHostPort(addr)
	if err != nil || host != "127.0.0.1" {
		return
	}
	n, _ := strconv.Atoi(p)
	local := fmt.Sprintf(" 0100007F:%04X 00000000:0000 0A ", n)
	eventually(t, "the old server to stop listening on "+addr, func() bool {
		b, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Skip(err)
		}
		return strings.Count(string(b), local) == 1
	})
}

// descriptors are the open descriptors of this process, by what they lead to:
// "socket", "pipe", …
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	kinds := map[string]int{}
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the directory itself
		}
		kind, _, _ := strings.Cut(link, ":")
		kinds[kind]++
	}
	return kinds
}
