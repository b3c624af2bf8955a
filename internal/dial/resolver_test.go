package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

func TestDialNoAddresses(t *testing.T) {
	_, err := newDialer(t, (&answers{list: [][]netip.Addr{nil}}).resolve).Dial(t.Context(), target.Target{Host: "o1.test", Port: 80}, false)
	if err == nil || failure.Of(err) != failure.NoName {
		t.Errorf("%v", err)
	}
}

// The error says what is missing: not one family where both were asked for.
func TestDialNoAddresses_Text(t *testing.T) {
	for prefer, want := range map[string]string{
		"4": "no addresses", "6": "no addresses", "4_only": "no IPv4 address", "6_only": "no IPv6 address",
	} {
		d := newDialer(t, nil)
		d.forget(split{})
		d.Order = Orders[prefer]
		for range 2 { // asked for, and from the cache
			_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false)
			if err == nil || err.Error() != "lookup origin.test: "+want || failure.Of(err) != failure.NoName {
				t.Errorf("prefer_ip %s: %v", prefer, err)
			}
		}
	}
	d := newDialer(t, nil)
	for _, broken := range []dnscache.Family{dnscache.IPv4, dnscache.IPv6} {
		b := &delayed{}
		b[broken].err = errUnreachable
		d.forget(b)
		if _, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false); !errors.Is(err, errUnreachable) {
			t.Errorf("%v fails: %v", broken, err)
		}
	}
}

// What the resolver of Go reports, from a server of the test's own.
func TestDialResolverErrors(t *testing.T) {
	for _, tc := range []struct {
		name    string
		respond func(*dnsmessage.Message)
		want    *failure.Failure
	}{
		{"NXDOMAIN", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }, failure.NoName},
		{"SERVFAIL", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }, failure.DNS},
		{"REFUSED", func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }, failure.DNS},
		{"no addresses", func(*dnsmessage.Message) {}, failure.NoName},
		{"silence", nil, failure.DNSTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noLeaks(t)
			server := &dnsServer{respond: tc.respond}
			d := newDialer(t, nil)
			d.forget(dnscache.System{Resolver: server.resolver(t)})
			if tc.respond == nil {
				d.Timeout = 20 * time.Millisecond
			}
			_, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: 80}, false)
			if err == nil || failure.Of(err) != tc.want {
				t.Errorf("%v is not %s", err, tc.want.Type)
			}
		})
	}
}

// A client that leaves while its name is resolved is nobody's failure.
func TestDialResolverCanceled(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	server := &dnsServer{asked: func(string) { cancel() }}
	d := newDialer(t, nil)
	d.forget(dnscache.System{Resolver: server.resolver(t)})
	_, err := d.Dial(ctx, target.Target{Host: "origin.test", Port: 80}, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if f := failure.Of(err); f != failure.Canceled {
		t.Errorf("classified as %s", f.Type)
	}
}

// dnsServer answers over a pipe, as a DNS server does over TCP.
type dnsServer struct {
	asked   func(name string)
	respond func(*dnsmessage.Message) // nil: silence
}

// resolver is Go's own resolver that asks this server. At the end of the test
// the server goes away: the resolver goes on asking for a while after whoever
// waited for the answer has left.
func (s *dnsServer) resolver(t *testing.T) *net.Resolver {
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone) })
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		select {
		case <-gone:
			return nil, net.ErrClosed
		default:
		}
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			select {
			case <-gone:
			case <-done:
			}
			server.Close()
		}()
		go func() {
			defer close(done)
			s.serve(server)
		}()
		return client, nil
	}}
}

func (s *dnsServer) serve(conn net.Conn) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(query) != nil || len(m.Questions) == 0 {
			return
		}
		if s.asked != nil {
			s.asked(m.Questions[0].Name.String())
		}
		if s.respond == nil {
			continue
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		s.respond(&m)
		answer, err := m.Pack()
		if err != nil {
			return
		}
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}
