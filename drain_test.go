package egress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// drainTest is a book in a bubble of time.
type drainTest struct {
	*testing.T
	book *tunnelBook
	from time.Time
}

func inDrainTest(t *testing.T, f func(d *drainTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(&drainTest{t, new(tunnelBook), time.Now()})
	})
}

// open opens a tunnel, which tells its end and when it was.
func (d *drainTest) open() *testTunnel { return openTestTunnel(d, d.book, "a.example:443", "8.8.8.8") }

// ends waits for the end of a tunnel, which must be by drain and about then.
func (d *drainTest) ends(tun *testTunnel, at time.Duration) {
	d.Helper()
	result := <-tun.done
	tun.done <- result
	if took := time.Since(d.from); result.Reason != relay.ReasonDrain || took < at || took > at+drainSettle+drainLinger {
		d.Errorf("ended by %s after %s; want drain after %s", result.Reason, took, at)
	}
}

// lives fails the test if a tunnel has ended some time from now.
func (d *drainTest) lives(tun *testTunnel, wait time.Duration) {
	d.Helper()
	time.Sleep(wait)
	synctest.Wait()
	if len(tun.done) > 0 {
		d.Errorf("ended before %s", time.Since(d.from))
	}
}

func after(delay time.Duration) *tunnelPolicy { return &tunnelPolicy{closeDelay: delay} }

// While a configuration holds the book, or enters it in time, tunnels live; the last
// one to leave says how long they have from then on.
func TestDrain_Abandoned(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		old, next, last := after(0), after(0), after(5*time.Second)
		live := &d.book.live
		live.enter(old)
		tun := d.open()
		live.enter(next)
		live.leave(old)
		d.lives(tun, time.Hour)
		failed := after(0)
		live.enter(failed)
		live.leave(failed)
		d.lives(tun, time.Hour)
		live.enter(last)
		live.leave(next)
		live.leave(last)
		d.lives(tun, 4*time.Second)
		live.enter(next) // back
		d.lives(tun, time.Hour)
		live.enter(last)
		live.leave(next)
		live.leave(last)
		d.from = time.Now()
		d.ends(tun, 5*time.Second)
	})
}

// A configuration that has the handler and fails to load gives its tunnels no more time
// than they had: those whose time is over by then end at once.
func TestDrain_FailedLoad(t *testing.T) {
	fails := func(live *liveTunnels, after time.Duration) {
		p := &tunnelPolicy{closeDelay: time.Hour, failed: true}
		live.enter(p)
		time.Sleep(after)
		live.leave(p)
	}
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.live
		gone := after(10 * time.Second)
		live.enter(gone)
		tun := d.open()
		live.leave(gone)
		for range 3 {
			fails(live, time.Second)
			d.lives(tun, time.Second)
		}
		d.ends(tun, 10*time.Second)

		// The next one is not concerned by what was.
		d.from = time.Now()
		live.enter(gone)
		tun = d.open()
		fails(live, time.Second)
		live.leave(gone)
		fails(live, 20*time.Second)
		d.ends(tun, 21*time.Second)

		// One that runs, and goes, does give it more.
		d.from = time.Now()
		live.enter(gone)
		tun = d.open()
		live.leave(gone)
		d.lives(tun, 5*time.Second)
		back := after(10 * time.Second)
		live.enter(back)
		fails(live, time.Second)
		d.lives(tun, 20*time.Second)
		live.leave(back)
		d.ends(tun, 36*time.Second)
	})
}

// A tunnel whose request has outlived the handler has its own time.
func TestDrain_LateTunnel(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.live
		gone := after(time.Second)
		live.enter(gone)
		live.leave(gone)
		d.lives(d.open(), 29*time.Second) // the default of its handler
		first := d.open()
		d.ends(first, 30*time.Second)
		d.from = time.Now()
		d.ends(d.open(), 30*time.Second)
	})
}

// At exit the shorter time counts, nobody can take the tunnels back, and what comes
// when time is over is ended at once. Whoever waits is told when all are gone.
func TestDrain_Exit(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.live
		p := after(time.Minute)
		live.enter(p)
		tun := d.open()
		exit := func(delay time.Duration) {
			live.mu.Lock()
			defer live.mu.Unlock()
			live.drainWithin(delay, true)
		}
		exit(10 * time.Second)
		exit(time.Hour) // later than what is set already
		live.enter(p)
		live.leave(p)
		live.leave(p)
		gone := make(chan time.Duration, 1)
		go func() {
			live.await(context.Background())
			gone <- time.Since(d.from)
		}()
		d.lives(tun, 9*time.Second)
		d.ends(tun, 10*time.Second)
		ended := time.Since(d.from)
		// The handler of the last one has to return and net/http to write its end.
		if at := <-gone; at < ended+exitFlush {
			d.Errorf("told that all are gone after %s, and the last has ended after %s", at, ended)
		}
		begin := time.Now()
		live.await(context.Background()) // nothing to wait for
		if took := time.Since(begin); took > 0 {
			d.Errorf("waited %s for nothing", took)
		}
		late := d.open()
		d.ends(late, 10*time.Second)
	})
}

// A handler that was about to end its tunnels anyway does not give them more time
// at exit.
func TestDrain_ExitAfterRemoval(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.live
		p := after(2 * time.Second)
		live.enter(p)
		tun := d.open()
		live.leave(p)
		live.mu.Lock()
		live.drainWithin(time.Minute, true)
		live.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		live.await(ctx) // the grace period
		d.lives(tun, 0)
		d.ends(tun, 2*time.Second)
	})
}

// Waiting does not end before the line of the tunnel is written.
func TestDrain_AwaitsTheLine(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.live
		live.enter(after(0))
		slot := tunnelSlot{book: d.book, live: new(liveTunnel)}
		live.add(slot.live, 0)
		written := false
		go func() {
			time.Sleep(time.Second)
			slot.releaseAround(func() {
				time.Sleep(time.Second)
				written = true
			})
		}()
		live.await(context.Background())
		if !written {
			d.Error("the wait was over before the line was written")
		}
	})
}

func TestExitDelay(t *testing.T) {
	for _, tc := range []struct{ delay, grace, want time.Duration }{
		{30 * time.Second, 0, 30 * time.Second},
		{30 * time.Second, time.Minute, 30 * time.Second},
		{30 * time.Second, 10 * time.Second, 8900 * time.Millisecond},
		{30 * time.Second, time.Second, 0},
		{0, 0, 0},
	} {
		if got := exitDelay(tc.delay, tc.grace); got != tc.want {
			t.Errorf("close_delay %s, grace period %s: %s, want %s", tc.delay, tc.grace, got, tc.want)
		}
	}
}

// identified provisions an HTTP app, dry, and returns what its handlers are known by.
func identified(t *testing.T, config string) ([]string, error) {
	t.Helper()
	found, cleanUp, err := provisionDry([]byte(config))
	if err != nil {
		return nil, err
	}
	defer cleanUp()
	_, places := found.byPlace()
	return places, nil
}

// A handler is known by its name, or by its place, in which those with names count.
func TestIdentity(t *testing.T) {
	const two = `{"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:1","127.0.0.1:2"],"automatic_https":{"disable":true},` +
		`"routes":[{"handle":[{"handler":"egress"%s}]},{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"egress"%s}]}]}]}]}}}}}`
	for _, tc := range []struct {
		first, second string
		want          []string
		problem       string
	}{
		{"", "", []string{"127.0.0.1:1,127.0.0.1:2#1", "127.0.0.1:1,127.0.0.1:2#2"}, ""},
		{`,"name":"edge"`, "", []string{"edge", "127.0.0.1:1,127.0.0.1:2#2"}, ""},
		{`,"name":"a"`, `,"name":"b"`, []string{"a", "b"}, ""},
		{`,"name":"edge"`, `,"name":"edge"`, nil, `name: "edge" is taken by the handler 127.0.0.1:1,127.0.0.1:2#1; this one is 127.0.0.1:1,127.0.0.1:2#2`},
	} {
		got, err := identified(t, fmt.Sprintf(two, tc.first, tc.second))
		if tc.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tc.problem) {
				t.Errorf("%s and %s: %v; want %s", tc.first, tc.second, err, tc.problem)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s and %s: %q, %v; want %q", tc.first, tc.second, got, err, tc.want)
		}
	}
	identitiesMu.Lock()
	defer identitiesMu.Unlock()
	if len(configs) > 0 {
		t.Errorf("%d configurations are remembered", len(configs))
	}
}

// Two configurations may have the same name, one after the other.
func TestIdentity_OverReloads(t *testing.T) {
	const config = `{"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:1"],"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"egress","name":"edge"}]}]}}}}}`
	first, endFirst, err := provisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	second, endSecond, err := provisionDry([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	a, b := first.entries[0], second.entries[0]
	if a.tunnels.Value != b.tunnels.Value {
		t.Error("two books")
	}
	book := a.tunnels.Value
	endFirst()
	if held("edge") != 1 || len(book.live.policies) != 1 {
		t.Errorf("held by %d, %d policies", held("edge"), len(book.live.policies))
	}
	endSecond()
	if held("edge") != 0 || len(book.live.policies) != 0 {
		t.Errorf("held by %d, %d policies at the end", held("edge"), len(book.live.policies))
	}
}
