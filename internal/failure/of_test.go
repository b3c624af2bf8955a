package failure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/caddy-egress/egress/internal/dnscache"
)

// What keeps this process from asking for a name is its own fault, whoever it would have
// asked: no destination and no upstream is to pay for it.
func TestOf_OwnFaultOfLookups(t *testing.T) {
	emfile := &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	system := dnscache.System{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, emfile }}}
	server, err := dnscache.ParseServer("https://dns.test/dns-query")
	if err != nil {
		t.Fatal(err)
	}
	client, err := dnscache.NewClient([]dnscache.Server{server}, nil, nil, system)
	if err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.Mkdir(hosts, 0o700); err != nil { // it opens, and cannot be read
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		cfg  dnscache.Config
		want *Failure
	}{
		{"system resolver", dnscache.Config{Backend: system}, Limit},
		{"host of a DNS server", dnscache.Config{Backend: client}, Limit},
		{"hosts file", dnscache.Config{Backend: system, HostsFile: hosts}, Internal},
	} {
		_, flight := dnscache.New(tc.cfg).Lookup("one.test", dnscache.IPv4)
		<-flight.Done()
		err := flight.Answer().Err
		flight.Leave()
		if got := Of(fmt.Errorf("dial: %w", err)); got != tc.want {
			t.Errorf("%s: %v: %q, want %q", tc.name, err, got.Text, tc.want.Text)
		}
	}
	if got := Of(&net.DNSError{Err: errors.ErrUnsupported.Error()}); got != DNS {
		t.Errorf("a name that does not resolve: %q", got.Text)
	}
}

// An error number that a system call returns for a connection is no bug of ours, whatever
// it is: others bring about most of them, by ICMP for example.
func TestOf_ErrnoOfConnection(t *testing.T) {
	fail := func(op, call string, errno syscall.Errno) error {
		return fmt.Errorf("wrapped: %w", &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(call, errno)})
	}
	others := []syscall.Errno{
		syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.EPROTO, syscall.EINVAL, syscall.EPROTONOSUPPORT,
		syscall.EMSGSIZE, syscall.ENETRESET, syscall.ENOTCONN, syscall.Errno(64), // ENONET of Linux
	}
	for _, errno := range others {
		if f := Of(fail("dial", "connect", errno)); f != Unroutable {
			t.Errorf("connect: %v: %v", errno, f)
		}
		if f := Of(fail("read", "read", errno)); f != Terminated {
			t.Errorf("read: %v: %v", errno, f)
		}
		if f := Of(fail("write", "write", errno)); f != Terminated {
			t.Errorf("write: %v: %v", errno, f)
		}
		if f := Of(fail("dial", "bind", errno)); f != Internal {
			t.Errorf("bind: %v: %v", errno, f)
		}
	}
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if f := Of(fail("dial", "connect", errno)); f != Limit {
			t.Errorf("this machine's own: %v: %v", errno, f)
		}
	}
	if f := Of(fail("dial", "socket", syscall.EAFNOSUPPORT)); f != Unroutable {
		t.Errorf("no such family: %v", f)
	}
	for _, err := range []error{syscall.EINVAL, os.NewSyscallError("read", syscall.EINVAL), &net.OpError{Op: "dial", Err: errors.New("x")}} {
		if f := Of(err); f != Internal {
			t.Errorf("no connection: %v: %v", err, f)
		}
	}
}
