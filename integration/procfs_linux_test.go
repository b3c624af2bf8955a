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
