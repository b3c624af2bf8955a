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
