package exchange

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/origin"
)

// A client that has left is noticed behind what it has sent, and an origin that is silent
// for too long is given up, unless it takes the body of the request meanwhile.
func TestSilence(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := &Exchange{Config: &Config{BodyIdle: time.Hour}}
	x.HTTP = (&http.Request{ProtoMajor: 1}).WithContext(origin.WithClient(t.Context(), conn))
	want := func(silent time.Duration, want *failure.Failure) {
		t.Helper()
		err := x.Silent(silent)
		if err != nil && failure.Of(err) != want || (err == nil) != (want == nil) {
			t.Errorf("silent for %v: %v", silent, err)
		}
	}
	want(59*time.Minute, nil)
	want(time.Hour, failure.Stopped)
	x.upload = new(upload)
	x.upload.sent.Store(1)
	want(time.Hour, nil)
	x.seen.at = time.Now().Add(-time.Hour)
	want(time.Hour, failure.Stopped)
	x.Config.BodyIdle = 0
	want(1000*time.Hour, nil)

	if _, err := client.Write([]byte("G")); err != nil {
		t.Fatal(err)
	}
	want(time.Second, nil)
	client.Close()
	for deadline := time.Now().Add(30 * time.Second); x.Silent(time.Second) == nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	want(time.Second, failure.Canceled)
}
