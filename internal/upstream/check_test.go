package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
)

// A check by http hears the final response, not an informational one before it.
func TestCheckHearsTheFinalResponse(t *testing.T) {
	for answer, healthy := range map[string]bool{
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": true,
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n":                                              false,
		"HTTP/1.1 103 Early Hints\r\n\r\n":                                              false,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n": false,
	} {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Read(make([]byte, 4096))
			_, _ = io.WriteString(far, answer)
			far.Close()
		}()
		checks := &Checks{ExpectStatus: 2}
		to := &CheckTarget{URL: &url.URL{Scheme: "http", Host: "check.test", Path: "/"}, Dest: target.Target{Host: "check.test", Port: 80}}
		m := &Member{Spec: new(Spec), Group: new(Group)}
		if err := checks.get(t.Context(), near, to, m); (err == nil) != healthy {
			t.Errorf("%q: %v", answer, err)
		}
		near.Close()
	}
}

// That the target of a check has no address here is charged to no socks5 upstream. It is
// told once, until it has one.
func TestCheckWithoutAddress(t *testing.T) {
	dest := target.Target{Host: "check.test", Port: 443}
	g := mustNew(t, Config{Static: []*Spec{{}}, Checks: &Checks{
		Type: CheckConnect, Interval: time.Hour, Timeout: time.Minute, Passes: 1, Fails: 1,
		Targets: []CheckTarget{{Text: "check.test:443", Dest: dest}},
	}})
	log, lines := observer.New(zap.WarnLevel)
	g.cfg.Logger = zap.New(log)
	m := g.Members()[0]
	m.Spec.Addr.Scheme = SOCKS5
	failing := true
	m.Conns.tell = func(target.Target, *dial.Through) *dial.Told {
		if failing {
			return fixedNames().TellUnchecked(dest, new(dial.Through))
		}
		return fixedNames("192.0.2.1").TellUnchecked(target.Target{Host: "origin.test", Port: 443}, new(dial.Through))
	}
	var err error
	m.Conns.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("closed port") }
	if m.Conns.Dialer, err = proxydial.New(proxydial.Config{Scheme: proxydial.SOCKS5, Dial: m.Conns.dial}); err != nil {
		t.Fatal(err)
	}
	results := make(chan health.CheckResult, 1)
	cfg := g.checkerConfig()
	cfg.OnResult = func(_ *health.Member, r health.CheckResult) { results <- r }
	prepare := cfg.Prepare
	cfg.Prepare = func(ctx context.Context, m *health.Member, text string) (context.Context, error) {
		if _, ok := ctx.Deadline(); ok {
			t.Error("the look-up takes of the time of the check")
		}
		return prepare(ctx, m, text)
	}
	checker, err := health.StartChecker(g.health, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer checker.Stop()
	for i, want := range []health.CheckOutcome{health.Inconclusive, health.Inconclusive, health.Failed, health.Inconclusive} {
		if r := <-results; r.Outcome != want {
			t.Errorf("check %d: %s, want %s: %v", i, r.Outcome, want, r.Err)
		}
		failing = i != 1
		if i < 3 {
			checker.CheckNow(&m.ref) // nobody uses the group, so no other one is due
		}
	}
	if n := lines.FilterField(zap.String("target", "check.test:443")).Len(); n != 2 {
		t.Errorf("told %d times, want once for each time that it began", n)
	}
}

// A check whose page does not come in time says so: not what the end of the check has done
// to its connection.
func TestCheckOutOfTime(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // it accepts, and answers nothing
	to := CheckTarget{Text: "http://check.test/", URL: &url.URL{Scheme: "http", Host: "check.test", Path: "/"}, Dest: target.Target{Host: "check.test", Port: 80}}
	g := &Group{cfg: Config{Checks: &Checks{Type: CheckHTTP, Timeout: time.Second, ExpectStatus: 2}}, targets: map[string]*CheckTarget{to.Text: &to}}
	m := &Member{Spec: &Spec{Addr: Address{Scheme: HTTP}}, Group: g, Conns: new(Conns), Health: new(Health)}
	m.Conns.dial = func(context.Context) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	if m.Conns.Dialer, err = proxydial.New(proxydial.Config{Scheme: proxydial.HTTP, Dial: m.Conns.dial}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = g.check(ctx, &health.Member{Value: m}, to.Text)
	if want := "no answer to the request within 1s: context deadline exceeded"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
