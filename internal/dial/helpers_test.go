package dial

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/testkit/freeport"
)

// freePort is a TCP port on which nothing listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	port, err := freeport.Get()
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// answers is a resolver that gives one answer after the other, the last one
// again and again, and counts.
type answers struct {
	list  [][]netip.Addr
	asked atomic.Int32
}

func (a *answers) resolve(_ context.Context, _ string) ([]netip.Addr, error) {
	n := int(a.asked.Add(1)) - 1
	return a.list[min(n, len(a.list)-1)], nil
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// allAtOnce is a backend that tells all addresses of a name, whatever their
// family, when it is asked for those of IPv6, and none else. So it is asked once.
type allAtOnce func(context.Context, string) ([]netip.Addr, error)

func (b allAtOnce) Lookup(ctx context.Context, name string, f dnscache.Family) (dnscache.Reply, error) {
	if f == dnscache.IPv4 {
		return dnscache.Reply{TTL: time.Minute}, nil
	}
	list, err := b(ctx, name)
	return dnscache.Reply{Addrs: list, TTL: time.Minute}, err
}

func (allAtOnce) CloseIdle() {}

// forget lets the time of all answers pass.
func (d *Dialer) forget(b dnscache.Backend) {
	d.Names = NewNames(dnscache.New(dnscache.Config{Backend: b}))
}

// fix gives names fixed addresses, and nobody knows others.
func (d *Dialer) fix(static map[string][]netip.Addr) {
	d.Names = NewNames(dnscache.New(dnscache.Config{Backend: split{}, Static: static}))
}

// warm has a name resolved.
func (d *Dialer) warm(host string) {
	for _, f := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		if _, fl := d.Names.cache.Lookup(host, f); fl != nil {
			<-fl.Done()
			fl.Leave()
		}
	}
}

// newDialer is a dialer with rules and a resolver of the test's own. Nothing
// counts as a listener of this process.
func newDialer(t *testing.T, resolve func(context.Context, string) ([]netip.Addr, error), rules ...string) *Dialer {
	t.Helper()
	d := &Dialer{
		Access:        fixture.FixedRules(fixture.AccessList(t, rules...)),
		Self:          fixture.Self(nil, nil),
		Timeout:       10 * time.Second,
		FallbackDelay: 10 * time.Second, // no test here waits for it
		TLSTimeout:    10 * time.Second,
		TLSConfig:     new(tls.Config),
		Order:         Orders["6"],
		DialAddr:      ToAddr,
	}
	d.forget(allAtOnce(resolve))
	return d
}

// listenAt are listeners on one port of several loopback addresses.
func listenAt(t testing.TB, hosts ...string) (uint16, map[string]net.Listener) {
	t.Helper()
	for range 20 {
		listeners := make(map[string]net.Listener)
		port := "0"
		for _, host := range hosts {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				break // the port is taken there
			}
			listeners[host] = ln
			_, port, _ = net.SplitHostPort(ln.Addr().String())
		}
		if len(listeners) == len(hosts) {
			t.Cleanup(func() {
				for _, ln := range listeners {
					ln.Close()
				}
			})
			return uint16(listeners[hosts[0]].Addr().(*net.TCPAddr).Port), listeners
		}
		for _, ln := range listeners {
			ln.Close()
		}
	}
	t.Fatalf("no port that is free on all of %v", hosts)
	return 0, nil
}

// dialedTimes is how many connections have been made to a listener so far: it
// makes one itself, behind all others in the queue.
func dialedTimes(t *testing.T, ln net.Listener) int {
	t.Helper()
	last, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for n := 0; ; n++ {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn.RemoteAddr().String() == last.LocalAddr().String() {
			return n
		}
	}
}

func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, before)
		}
	})
}

// serveConns hands each connection to a port of 127.0.0.1 to serve, and closes
// it afterwards. At the end of the test it waits for them all.
func serveConns(t testing.TB, serve func(net.Conn)) uint16 {
	t.Helper()
	return serveConnsAt(t, serve, "127.0.0.1")
}

func serveConnsAt(t testing.TB, serve func(net.Conn), hosts ...string) uint16 {
	t.Helper()
	port, listeners := listenAt(t, hosts...)
	var wg sync.WaitGroup
	for _, ln := range listeners {
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer conn.Close()
					serve(conn)
				})
			}
		})
	}
	t.Cleanup(func() {
		for _, ln := range listeners {
			ln.Close()
		}
		wg.Wait()
	})
	return port
}

// silent takes what comes and says nothing.
func silent(conn net.Conn) { io.Copy(io.Discard, conn) }
