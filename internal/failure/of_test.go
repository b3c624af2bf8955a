package failure

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

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
