package filewatch

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch starts a watch of a file whose calls of changed come over the channel.
func watch(t *testing.T, path string) (*Watcher, <-chan string) {
	t.Helper()
	w := New(path)
	contents := make(chan string, 16)
	w.Start(func(bool) bool {
		b, _ := os.ReadFile(path)
		contents <- string(b)
		return true
	})
	t.Cleanup(func() {
		w.Stop()
		<-w.done
	})
	return w, contents
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, contents <-chan string, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-contents:
			if got == want {
				return
			}
		case <-timeout:
			t.Fatalf("no notice of %q", want)
		}
	}
}

func TestWatch_WriteInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "one")
	_, contents := watch(t, path)
	write(t, path, "one and two")
	await(t, contents, "one and two")
}

func TestWatch_Rename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	write(t, path, "old")
	_, contents := watch(t, path)
	for _, content := range []string{"new", "newer"} {
		write(t, filepath.Join(dir, "list.tmp"), content)
		if err := os.Rename(filepath.Join(dir, "list.tmp"), path); err != nil {
			t.Fatal(err)
		}
		await(t, contents, content)
	}
}

func TestWatch_ChangeBetweenNewAndStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "old")
	w := New(path)
	write(t, path, "newer")
	contents := make(chan string, 1)
	w.Start(func(bool) bool { contents <- "called"; return true })
	defer func() { w.Stop(); <-w.done }()
	await(t, contents, "called")
}

func TestWatch_Symlink(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the regular look at the file")
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	path, real := filepath.Join(dir, "list"), filepath.Join(elsewhere, "list")
	write(t, real, "old")
	if err := os.Symlink(real, path); err != nil {
		t.Skip(err)
	}
	_, contents := watch(t, path)
	// The first change may be found by the look at the start.
	for _, content := range []string{"changed behind the link", "changed again"} {
		write(t, real, content)
		await(t, contents, content)
	}
}

func TestWatch_GoneAndBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "old")
	_, contents := watch(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "back again")
	await(t, contents, "back again")
}

func TestWatch_UnchangedIsNoChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "same")
	other := filepath.Join(filepath.Dir(path), "other")
	_, contents := watch(t, path)
	write(t, other, "noise")
	write(t, path, "changed")
	await(t, contents, "changed")
	select {
	case c := <-contents:
		t.Errorf("a second notice of %q", c)
	case <-time.After(3 * settle):
	}
}

// A file that is not taken is told of again and again, with growing pauses, until it is;
// another one at once, also the one of before.
func TestWatch_NotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list")
		put := func(content string) {
			write(t, path, content)
			stamp := time.Unix(1_000_000, 0)
			if err := os.Chtimes(path, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
		put("old")
		w := New(path)
		if w.events != nil { // they come from outside of the bubble
			_ = w.events.Close()
			w.events = nil
		}
		type call struct {
			after time.Duration // the call before, or the last step
			again bool
		}
		var mu sync.Mutex
		var calls []call
		last, taken := time.Now(), false
		w.Start(func(again bool) bool {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, call{time.Since(last).Truncate(time.Second), again})
			last = time.Now()
			return taken
		})
		defer func() { w.Stop(); <-w.done }()
		again := func(seconds ...time.Duration) (list []call) {
			for _, s := range seconds {
				list = append(list, call{s * time.Second, true})
			}
			return list
		}
		for _, step := range []struct {
			what    string
			prepare func()
			want    []call // where the first is new, its time is that of a regular look
		}{
			{"unchanged", func() {}, nil},
			{"not taken", func() { put("newer") }, append([]call{{}}, again(1, 2, 4, 8, 16, 30)...)},
			{"the one of before is back", func() { put("old") }, append([]call{{}}, again(1, 2, 4, 8, 16, 30)...)},
			{"gone", func() { _ = os.Remove(path) }, nil},
			{"taken", func() { put("other"); taken = true }, []call{{}}},
			{"still the same", func() { taken = false }, nil},
		} {
			mu.Lock()
			step.prepare()
			calls, last = nil, time.Now()
			mu.Unlock()
			time.Sleep(85 * time.Second)
			synctest.Wait()
			mu.Lock()
			if len(calls) > 0 && !calls[0].again && calls[0].after <= lookEvery {
				calls[0].after = 0
			}
			if !slices.Equal(calls, step.want) {
				t.Errorf("%s: called %v, want %v", step.what, calls, step.want)
			}
			mu.Unlock()
		}
	})
}

// A file that is written without pause, or whose times are changed all the time, is told
// of all the same.
func TestWatch_WithoutPause(t *testing.T) {
	for name, touch := range map[string]func(f *os.File) error{
		"written": func(f *os.File) error { _, err := f.WriteString("more\n"); return err },
		"touched": func(f *os.File) error { return os.Chtimes(f.Name(), time.Time{}, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "list")
			write(t, path, "old")
			_, contents := watch(t, path)
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(" and new\n"); err != nil {
				t.Fatal(err)
			}
			tick, timeout := time.NewTicker(settle/4), time.After(time.Minute)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if err := touch(f); err != nil {
						t.Fatal(err)
					}
				case <-contents:
					return
				case <-timeout:
					t.Fatal("no notice")
				}
			}
		})
	}
}

// Without events, a file is told of when it has stopped changing, or after a while.
func TestWatch_WithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list")
		write(t, path, "old")
		w := New(path)
		if w.events != nil { // they come from outside of the bubble
			_ = w.events.Close()
			w.events = nil
		}
		told := make(chan time.Time, 16)
		w.Start(func(bool) bool { told <- time.Now(); return true })
		defer func() { w.Stop(); <-w.done }()
		change := func(n int) (last time.Time) {
			for i := range n {
				time.Sleep(settle / 2)
				write(t, path, time.Now().String())
				stamp := time.Unix(1_000_000+int64(i), 0) // the clock of files is another
				if err := os.Chtimes(path, stamp, stamp); err != nil {
					t.Fatal(err)
				}
			}
			return time.Now()
		}
		last := change(60)
		if at := <-told; at.Before(last) || at.After(last.Add(lookEvery)) {
			t.Errorf("told of %s after the last change", at.Sub(last))
		}
		begin := time.Now()
		go func() { change(600) }()
		if took := (<-told).Sub(begin); took > lookEvery+patience+settle {
			t.Errorf("told of after %s", took)
		}
		time.Sleep(time.Minute)
	})
}
