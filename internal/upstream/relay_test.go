package upstream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
)

// relayed is who asks for a connection to a member in absolute form.
type relayed struct {
	m     *Member
	addr  string // of who takes connections, and is silent
	dials atomic.Int64
}

func (r *relayed) Dial(ctx context.Context) (*origin.Conn, error) {
	r.dials.Add(1)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return nil, err
	}
	return &origin.Conn{Conn: h1.NewConn(conn)}, nil
}

func (r *relayed) Accept(c *origin.Conn) bool { return r.m.TakesAgain(c) }

// take gets a connection.
func (r *relayed) take(t *testing.T) *origin.Lease {
	t.Helper()
	l, err := r.m.Conns.Pool.Get(t.Context(), origin.Key{}, connpool.Request[*origin.Conn]{By: r})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// relayingMember is a member that keeps connections, and has shown a Via.
func relayingMember(t *testing.T) (*Member, *relayed) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody has to accept what it takes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	m := newGroup(t, &Spec{}).Members()[0]
	m.Conns.Pool = origin.New(connpool.Config{MaxIdlePerKey: 64, MaxIdle: 64, IdleTimeout: time.Hour}, 0, 0)
	t.Cleanup(m.Conns.Pool.Close)
	m.NoteRelay(answerOf(200, "1.1 squid"))
	return m, &relayed{m: m, addr: silent.Addr().String()}
}

func answerOf(status int, via string) *h1.Head {
	hd := &h1.Head{Status: status, Minor: 1}
	if via != "" {
		hd.Fields = []h1.Field{{Name: "Via", Value: via}}
	}
	return hd
}

// With the end of a trust, what is idle on the strength of it is closed, and what is given back
// then is not taken; what was kept without stays.
func TestNoteRelay_ClosesWhatItVouchedFor(t *testing.T) {
	m, by := relayingMember(t)
	idle, late, plain := by.take(t), by.take(t), by.take(t)
	for _, l := range []*origin.Lease{idle, late} {
		if !m.Vouch(l.Conn()) {
			t.Fatal("not vouched for")
		}
	}
	kept := plain.Conn()
	idle.Release(0)
	plain.Release(0)
	m.NoteRelay(answerOf(200, ""))
	if n := m.Conns.Pool.Stats().Idle; n != 1 {
		t.Errorf("%d idle, want the one that nothing vouched for", n)
	}
	late.Release(0)
	if by.take(t).Conn() != kept {
		t.Error("what was kept without trust is not taken")
	}
	if by.take(t); by.dials.Load() != 4 {
		t.Error("what was given back late is taken")
	}
}

// However the end of a trust falls between those that give connections back on the strength
// of it and those that take one, none that was vouched for is taken behind the end.
func TestNoteRelay_EndsForAll(t *testing.T) {
	m, by := relayingMember(t)
	var ended atomic.Bool
	var vouched atomic.Int64
	enough := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				after := ended.Load()
				l, err := m.Conns.Pool.Get(t.Context(), origin.Key{}, connpool.Request[*origin.Conn]{By: by})
				if err != nil {
					t.Error(err)
					return
				}
				if after && l.Conn().Trust != nil {
					t.Error("a connection was taken behind the end of what it was kept on the strength of")
				}
				if m.Vouch(l.Conn()) {
					if vouched.Add(1) == 100 {
						close(enough)
					}
					l.Release(0) // as if trust had ended behind the last look
				} else {
					l.Discard()
				}
			}
		})
	}
	<-enough
	m.NoteRelay(answerOf(200, ""))
	ended.Store(true)
	all.Wait()
	for range 2 {
		if m.Vouch(new(origin.Conn)) {
			t.Error("trust is back")
		}
		m.NoteRelay(answerOf(200, "1.1 squid"))
	}
}

// What says nothing of how an upstream relays ends no trust: its own pages, and what is
// informational. And what a connection has carried without a need for trust outlives it.
func TestNoteRelay_WhatCounts(t *testing.T) {
	m := newGroup(t, &Spec{}).Members()[0]
	c, plain := new(origin.Conn), new(origin.Conn)
	if m.Vouch(c) {
		t.Error("vouched for by nobody")
	}
	m.NoteRelay(answerOf(200, "1.0 fred, 1.1 squid"))
	if !m.Vouch(c) {
		t.Fatal("not vouched for")
	}
	for _, status := range []int{100, 103, 400, 403, 407, 500, 502, 504} {
		if m.NoteRelay(answerOf(status, "")); !m.TakesAgain(c) {
			t.Fatalf("%d ends trust", status)
		}
	}
	if m.NoteRelay(answerOf(204, "")); m.TakesAgain(c) || !m.TakesAgain(plain) {
		t.Error("trust holds behind a response without Via, or one that needs none is not taken")
	}
	if m.NoteRelay(answerOf(502, "1.1 vm (tinyproxy/1.11.1)")); m.TakesAgain(plain) {
		t.Error("tinyproxy gets a second exchange")
	}
}
