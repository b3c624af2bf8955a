package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// directly is the way out of a handler that may reach this machine, where two names lead.
func directly(t *testing.T) *core.Direct {
	t.Helper()
	h, _ := mustLoadModule(t, `{
		"acl": [{"subjects": ["127.0.0.0/8"], "allow": true}],
		"transport": {"hosts_override": {"origin.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}}
	}`)
	return h.proxy.Direct
}

// A destination that keeps failing is not dialed for a while; other
// destinations at the same address are.
func TestDialWithOpenCircuit(t *testing.T) {
	way, port := directly(t), freePort(t)
	dest := target.Target{Host: "origin.test", Port: port}
	for range 5 {
		if _, err := way.Dial(t.Context(), dest, false); err == nil || failure.Of(err) != failure.Refused {
			t.Fatal(err)
		}
	}
	_, err := way.Dial(t.Context(), dest, false)
	if err == nil || failure.Of(err) != failure.Circuit || core.RetryAfter(err) < time.Second {
		t.Errorf("%v", err)
	}
	if _, err := way.Dial(t.Context(), target.Target{Host: "other.test", Port: port}, false); err == nil || failure.Of(err) != failure.Refused {
		t.Errorf("another name: %v", err)
	}
}

// A client that leaves is nobody's failure: while it is connected, or during the
// handshake.
func TestDialCanceledIsNotCharged(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, useTLS := range []bool{false, true} {
		way := directly(t)
		ctx, cancel := context.WithCancel(t.Context())
		if useTLS {
			go func() { // it never answers
				if conn, err := ln.Accept(); err == nil {
					_, _ = conn.Read(make([]byte, 1)) // the handshake has begun
					cancel()
					_, _ = conn.Read(make([]byte, 1<<16))
					conn.Close()
				}
			}()
		} else {
			cancel()
		}
		dest := target.Target{Host: "origin.test", Port: uint16(ln.Addr().(*net.TCPAddr).Port)}
		if _, err := way.Dial(ctx, dest, useTLS); failure.Of(err) != failure.Canceled {
			t.Errorf("TLS %t: %v", useTLS, err)
		}
		if n := way.Circuits.Tracked(); n != 0 {
			t.Errorf("TLS %t: the destination was charged", useTLS)
		}
		cancel()
	}
}

// Where users have local addresses of their own, a destination that has banned one of them
// stays open to the others.
func TestDialWithOpenCircuitOfAnotherSource(t *testing.T) {
	way := directly(t)
	sources, err := dial.NewSources([]string{"127.0.0.1", "127.0.0.2"}, dial.PickUserHash, "", way.Order)
	if err != nil {
		t.Fatal(err)
	}
	way.Sources = sources
	banned := netip.MustParseAddr("127.0.0.2")
	way.DialAddr = func(_ context.Context, _ netip.AddrPort, from dial.Source) (*net.TCPConn, error) {
		if from.Addrs[dnscache.IPv4] == banned {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return nil, failure.Internal // nobody's fault
	}
	dest := target.Target{Host: "origin.test", Port: 80}
	want := map[bool]*failure.Failure{true: failure.Circuit, false: failure.Internal}
	seen := make(map[bool]int)
	for range 6 {
		for slot := range uint32(2) {
			ctx := dial.WithSlot(t.Context(), slot+1)
			isBanned := sources.Pick(ctx).Addrs[dnscache.IPv4] == banned
			_, err := way.Dial(ctx, dest, false)
			if seen[isBanned]++; seen[isBanned] == 6 && failure.Of(err) != want[isBanned] {
				t.Errorf("from the banned address: %t: %v", isBanned, err)
			}
		}
	}
	if seen[true] != 6 || seen[false] != 6 {
		t.Fatalf("dialed from the banned address: %v", seen)
	}
}

// failingResolver cannot tell, after all that wait have come.
type failingResolver struct{ release chan struct{} }

func (r failingResolver) Lookup(ctx context.Context, _ string, _ dnscache.Family) (dnscache.Reply, error) {
	select {
	case <-r.release:
	case <-ctx.Done():
	}
	return dnscache.Reply{}, errors.New("server failure")
}

func (failingResolver) CloseIdle() {}

// One question that fails does not close a destination, however many wait for its answer
// or get it while it is remembered. Several do.
func TestDialChargesAQuestionOnce(t *testing.T) {
	way := directly(t)
	dest := target.Target{Host: "page.test", Port: 80}
	synctest.Test(t, func(t *testing.T) {
		resolver := failingResolver{make(chan struct{})}
		way.Names = dial.NewNames(dnscache.New(dnscache.Config{Backend: resolver}))
		asked := func() error {
			_, err := way.Dial(t.Context(), dest, false)
			return err
		}
		var page sync.WaitGroup
		for range 10 {
			page.Go(func() {
				if err := asked(); failure.Of(err) != failure.DNS {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(resolver.release)
		page.Wait()
		for range 10 {
			if err := asked(); failure.Of(err) != failure.DNS {
				t.Fatalf("while it is remembered: %v", err)
			}
		}
		for range 4 {
			time.Sleep(dnscache.FailureTTL)
			_ = asked()
		}
		if err := asked(); failure.Of(err) != failure.Circuit {
			t.Errorf("after five questions: %v", err)
		}
	})
}

// Nor does one that nobody answers, and that all who wait give up.
func TestDialChargesSilenceOnce(t *testing.T) {
	way := directly(t)
	dest := target.Target{Host: "page.test", Port: 80}
	synctest.Test(t, func(t *testing.T) {
		way.Names = dial.NewNames(dnscache.New(dnscache.Config{Backend: failingResolver{}}))
		way.Timeout = time.Second
		var page sync.WaitGroup
		for range 10 {
			page.Go(func() {
				if _, err := way.Dial(t.Context(), dest, false); failure.Of(err) != failure.DNSTimeout {
					t.Error(err)
				}
			})
		}
		page.Wait()
		if _, err := way.Dial(t.Context(), dest, false); failure.Of(err) != failure.DNSTimeout {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}
