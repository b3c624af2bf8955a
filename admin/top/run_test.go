package top

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/admin"
)

// screen keeps the last frame that was written.
type screen struct {
	mu    sync.Mutex
	frame string
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frame = string(p)
	return len(p), nil
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.frame, text)
}

// running is a view that runs in a bubble.
type running struct {
	screen
	keys           *io.PipeWriter
	resized, ended chan os.Signal
	cols           int
	fetches        atomic.Int64
	fetch          func() (*admin.Snapshot, error) // guarded by mu
	over           chan error
}

func start(t *testing.T) *running {
	t.Helper()
	in, keys := io.Pipe()
	r := &running{keys: keys, resized: make(chan os.Signal), ended: make(chan os.Signal), cols: 120, over: make(chan error, 1)}
	r.fetch = func() (*admin.Snapshot, error) { return snapshot(int(r.fetches.Load())), nil }
	l := &loop{
		Options: Options{Interval: time.Second, Fetch: func(context.Context) (*admin.Snapshot, error) {
			r.fetches.Add(1)
			r.mu.Lock()
			fetch := r.fetch
			r.mu.Unlock()
			return fetch()
		}},
		model: newModel("localhost:2019", painter{}), out: r, size: func() (int, int) { return r.cols, 24 },
		resized: r.resized, ended: r.ended,
	}
	l.model.took(snapshot(0))
	go func() {
		defer func() {
			if p := recover(); p != nil {
				r.over <- errors.New("panic: " + p.(string))
			}
		}()
		r.over <- l.run(t.Context(), in)
	}()
	synctest.Wait()
	return r
}

// answers changes what is fetched.
func (r *running) answers(fetch func() (*admin.Snapshot, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fetch = fetch
}

func (r *running) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := r.keys.Write([]byte(keys)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// end expects the view to be over, and the goroutine that reads keys to go.
func (r *running) end(t *testing.T) error {
	t.Helper()
	synctest.Wait()
	r.keys.Close()
	select {
	case err := <-r.over:
		return err
	default:
		t.Fatal("it goes on")
		return nil
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A snapshot is taken each interval, and none while the view is paused.
func TestRun_Refresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		for i := 1; i <= 3; i++ {
			pass(time.Second)
			if want := noon.Add(time.Duration(i) * time.Second).Format("15:04:05"); r.fetches.Load() != int64(i) || !r.shows(want) {
				t.Errorf("after %d s: %d snapshots, %q", i, r.fetches.Load(), r.frame)
			}
		}
		r.press(t, "p")
		if pass(10 * time.Second); r.fetches.Load() != 3 || !r.shows("PAUSED") || !r.shows("12:00:03") {
			t.Errorf("paused: %d snapshots, %q", r.fetches.Load(), r.frame)
		}
		r.press(t, "p")
		if r.fetches.Load() != 4 || r.shows("PAUSED") || !r.shows("12:00:04") {
			t.Errorf("going on: %d snapshots, %q", r.fetches.Load(), r.frame)
		}
		if pass(time.Second); r.fetches.Load() != 5 {
			t.Errorf("it does not go on: %d snapshots", r.fetches.Load())
		}
		r.press(t, "q")
		if err := r.end(t); err != nil {
			t.Error(err)
		}
	})
}

// A connection that is lost is said, what was known stays, and it is tried again.
func TestRun_Lost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		works := r.fetch
		r.answers(func() (*admin.Snapshot, error) { return nil, errors.New("connection refused") })
		pass(time.Second)
		if !r.shows("NO CONNECTION for 0s") || !r.shows("connection refused") || !r.shows("http://one.example:3128") {
			t.Errorf("%q", r.frame)
		}
		if pass(5 * time.Second); !r.shows("NO CONNECTION for 5s") || r.fetches.Load() != 6 {
			t.Errorf("%d tries, %q", r.fetches.Load(), r.frame)
		}
		r.answers(works)
		if pass(time.Second); r.shows("NO CONNECTION") || !r.shows("12:00:07") {
			t.Errorf("%q", r.frame)
		}
		r.press(t, "\x03")
		if err := r.end(t); err != nil {
			t.Error(err)
		}
	})
}

// While an answer is waited for, keys work and no other is asked for.
func TestRun_Slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		gate := make(chan struct{})
		r.answers(func() (*admin.Snapshot, error) { <-gate; return snapshot(30), nil })
		pass(10 * time.Second)
		r.press(t, "t")
		r.press(t, "p")
		r.press(t, "p")
		if r.fetches.Load() != 1 || !r.shows("[Tunnels 3]") {
			t.Errorf("%d snapshots, %q", r.fetches.Load(), r.frame)
		}
		close(gate)
		if synctest.Wait(); !r.shows("12:00:30") {
			t.Errorf("%q", r.frame)
		}
		r.press(t, "q")
		if err := r.end(t); err != nil {
			t.Error(err)
		}
	})
}

// A resized terminal is drawn at once.
func TestRun_Resize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		if !r.shows("aaaaaaaaaaaa") && !r.shows("NOTE") {
			t.Errorf("%q", r.frame)
		}
		r.cols = 60
		r.resized <- syscall.SIGTERM // any
		if synctest.Wait(); r.shows("NOTE") || !r.shows("http://one.example:3128") {
			t.Errorf("%q", r.frame)
		}
		r.press(t, "q")
		if err := r.end(t); err != nil {
			t.Error(err)
		}
	})
}

// The view ends by a signal, with its terminal, and by a panic wherever it is.
func TestRun_Ends(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*running)
		want string
	}{
		"signal":   {func(r *running) { r.ended <- syscall.SIGTERM }, "ended by a signal: terminated"},
		"terminal": {func(r *running) { r.keys.Close() }, "reading keys: the terminal is gone"},
		"error":    {func(r *running) { r.keys.CloseWithError(errors.New("input/output error")) }, "reading keys: input/output error"},
		"panic": {func(r *running) {
			r.answers(func() (*admin.Snapshot, error) { panic("broken") })
			pass(time.Second)
		}, "panic: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t)
				tc.end(r)
				if err := r.end(t); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
					t.Errorf("%v, want %s", err, tc.want)
				}
			})
		})
	}
}

// One snapshot as text has rates, which take two.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		n := 0
		o := Options{Address: "localhost:2019", Interval: 2 * time.Second, Fetch: func(context.Context) (*admin.Snapshot, error) {
			n += 2
			return snapshot(n - 2), nil
		}}
		if err := Once(t.Context(), &b, o); err != nil || !strings.Contains(b.String(), "requests 25.5/s") {
			t.Errorf("%v: %s", err, &b)
		}
		o.Fetch = func(context.Context) (*admin.Snapshot, error) { return nil, errors.New("refused") }
		b.Reset()
		if err := Once(t.Context(), &b, o); err == nil || b.Len() > 0 {
			t.Errorf("%v: %s", err, &b)
		}
	})
}
