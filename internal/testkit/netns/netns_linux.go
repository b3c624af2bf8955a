package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// In runs the rest of a test in a network namespace of its own, as its
// root: in a child process, which runs only this test. setup are arguments of
// ip(8). It reports whether this is the child.
func In(t *testing.T, setup ...string) bool {
	t.Helper()
	const mark = "EGRESS_TEST_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		for _, args := range append([]string{"link set lo up"}, setup...) {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				Unavailable(t, fmt.Sprintf("ip %s: %v: %s", args, err, out))
			}
		}
		return true
	}
	if _, err := exec.LookPath("ip"); err != nil {
		Unavailable(t, "ip(8) is not installed")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	id := func(n int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: n, Size: 1}} }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: id(os.Getuid()),
		GidMappings: id(os.Getgid()),
	}
	out, err := cmd.CombinedOutput()
	if _, started := errors.AsType[*exec.ExitError](err); err != nil && !started {
		Unavailable(t, fmt.Sprintf("no network namespace: %v", err))
	}
	if err != nil {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip(string(out))
	}
	return false
}

// Unavailable skips a test for which something is missing here.
func Unavailable(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("EGRESS_REQUIRE_PEERS") == "1" {
		t.Fatal(what + ", and EGRESS_REQUIRE_PEERS is set")
	}
	t.Skip(what + "; set EGRESS_REQUIRE_PEERS=1 to fail instead")
}
