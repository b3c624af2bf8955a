package dial

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/caddy-egress/egress/internal/target"
)

// An address to which no connection can be made is tried last for a while, whatever the
// system says; where it is this machine that could not go on, it is not.
func TestFailedAddresses_Errno(t *testing.T) {
	for errno, marked := range map[syscall.Errno]bool{
		syscall.ECONNREFUSED: true, syscall.ENOPROTOOPT: true, syscall.EPROTO: true, syscall.EINVAL: true,
		syscall.EMFILE: false, syscall.ENOBUFS: false, syscall.ENOMEM: false,
	} {
		resolver := &answers{list: [][]netip.Addr{addrs("127.0.0.2")}}
		d := newDialer(t, resolver.resolve, "allow 127.0.0.0/8")
		d.DialAddr = func(_ context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(a), Err: os.NewSyscallError("connect", errno)}
		}
		if _, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false); err == nil {
			t.Fatal("no error")
		}
		if got := d.Names.failed.Has(netip.MustParseAddrPort("127.0.0.2:80")); got != marked {
			t.Errorf("%v: marked %t", errno, got)
		}
	}
}
