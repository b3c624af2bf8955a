package freeport

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestGet(t *testing.T) {
	seen := map[int]bool{}
	for range blockSize + 100 { // of two blocks
		port, err := Get()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("%d was returned twice", port)
		}
		seen[port] = true
		if !free(port) {
			t.Errorf("%d is not free", port)
		}
	}
}

// A port that is taken for TCP or UDP is not free.
func TestFree(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		addr, err := Addr()
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(port)
		var taken interface{ Close() error }
		if network == "tcp" {
			taken, err = net.Listen(network, addr)
		} else {
			taken, err = net.ListenPacket(network, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
		if free(n) {
			t.Errorf("%s: a port that is taken is free", network)
		}
		taken.Close()
		if !free(n) {
			t.Errorf("%s: not free after it was closed", network)
		}
	}
}

// The kernel gives none of these ports to anybody who did not ask for it.
func TestBelowTheKernelsRange(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip(err)
	}
	low, err := strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		t.Fatal(err)
	}
	if low < 32768 {
		t.Skipf("this machine has another range: %s", b)
	}
	if last > low {
		t.Errorf("ports up to %d; the kernel gives those from %d on", last, low)
	}
}
