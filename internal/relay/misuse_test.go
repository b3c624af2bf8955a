package relay

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestCloseBeforeStart(t *testing.T) {
	for _, run := range []func(*Relay) Result{
		(*Relay).Run,
		func(r *Relay) Result { return start(t, r)() },
	} {
		client, origin := fakeLink(t), tcpLink(t)
		r := New(client.near, origin.near, Config{EarlyUp: []byte("never sent"), IdleTimeout: time.Hour})
		r.End(ReasonPolicy)
		mustBreak(t, client.far, "") // what it has sent was not delivered
		mustBreak(t, origin.far, "")
		if res := run(r); res.Reason != ReasonPolicy || res.Err != nil || res.BytesUp != 0 {
			t.Errorf("result %+v; want policy", res)
		}
	}
}

func TestMisuse(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	r := New(client.near, origin.near, Config{})
	wait := start(t, r)
	if res := r.Run(); res.Err != ErrStarted {
		t.Errorf("second start: %+v", res)
	}
	if res := start(t, r)(); res.Err != ErrStarted {
		t.Errorf("third start: %+v", res)
	}
	r.End(200)
	if res := wait(); res.Reason.String() != "unknown" {
		t.Errorf("result %+v", res)
	}

	// A stream that is not there is a broken one.
	for _, missing := range []Stream{nil, (*net.TCPConn)(nil)} {
		other := fakeLink(t)
		if res := New(missing, other.near, Config{}).Run(); res.Reason != ReasonClientError || res.Err == nil {
			t.Errorf("nil client: %+v", res)
		}
		other = fakeLink(t)
		if res := New(other.near, missing, Config{}).Run(); res.Reason != ReasonOriginError || res.Err == nil {
			t.Errorf("nil origin: %+v", res)
		}
	}
	New(nil, nil, Config{}).Start(nil)
}

// short is a stream that breaks the rules of io.
type short struct{ *fake }

func (s short) Write(p []byte) (int, error) { return len(p) - 1, nil }

type empty struct{ *fake }

func (e empty) Read([]byte) (int, error) { return 0, nil }

func TestBadStreams(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	mustWrite(t, client.far, "four")
	res := New(client.near, short{origin.near.(*fake)}, Config{}).Run()
	if res.Err != io.ErrShortWrite || res.Reason != ReasonOriginError || res.BytesUp != 3 {
		t.Errorf("short write: %+v", res)
	}
	client, origin = fakeLink(t), fakeLink(t)
	res = New(empty{client.near.(*fake)}, origin.near, Config{}).Run()
	if res.Err != io.ErrNoProgress || res.Reason != ReasonClientError {
		t.Errorf("empty reads: %+v", res)
	}
}

func TestReasonString(t *testing.T) {
	want := []string{
		"none", "client", "origin", "idle", "half_close_timeout", "lifetime", "closed",
		"drain", "policy", "admin", "stalled", "client_error", "origin_error", "unknown",
	}
	for i, w := range want {
		if got := Reason(i).String(); got != w {
			t.Errorf("Reason(%d) = %q; want %q", i, got, w)
		}
	}
}
