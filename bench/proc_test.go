//go:build linux

package main

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	line := "12 (a) b (c)) S 7 12 12 0 -1 4194304 100 0 0 0 250 40 9 9 20 0 8 0 1"
	got, err := parseStat([]byte(line))
	want := stat{parent: 7, cpu: cpuTime{2500 * time.Millisecond, 400 * time.Millisecond}}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "12 S 7", "12 (x) S 7"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseMemory(t *testing.T) {
	const status = "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t     780 kB\nRssShmem:\t      20 kB\n"
	if got := parseMemory(status); got != 120<<10 {
		t.Errorf("%d, want %d", got, 120<<10)
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0
   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0 100 0 0 10 0
`
	if got := listening(table, 8080); !slices.Equal(got, []string{"111", "333"}) {
		t.Errorf("%v, want 111 and 333", got)
	}
}

func TestOwnProcess(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if err := checkListener(os.Getpid(), port); err != nil {
		t.Error(err)
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if err := checkListener(other.Process.Pid, port); err == nil {
		t.Error("the listener of another process counts")
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	before, err := descriptors(os.Getpid())
	if err != nil || before < 3 {
		t.Errorf("%d descriptors, %v", before, err)
	}
	ln.Close()
	if err := checkListener(os.Getpid(), port); err == nil {
		t.Error("a closed listener counts")
	}
	if n, err := memory(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("%d bytes of memory, %v", n, err)
	}
	if _, err := cpu(os.Getpid()); err != nil {
		t.Error(err)
	}
}
