package filewatch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch starts a watch of a file whose calls of changed come over the channel.
func watch(t *testing.T, path string) (*Watcher, <-chan string) {
	t.Helper()
	w := New(path, zap.NewNop())
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
	w := New(path, zap.NewNop())
	write(t, path, "newer")
	contents := make(chan string, 1)
	w.Start(func(bool) bool { contents <- "called"; return true })
	defer func() { w.Stop(); <-w.done }()
	await(t, contents, "called")
}

// The file may be behind links, of whatever kind: it is written where it is.
func TestWatch_Symlink(t *testing.T) {
	for name, link := range map[string]func(dir, real string) error{
		"absolute": func(dir, real string) error { return os.Symlink(real, filepath.Join(dir, "list")) },
		"relative": func(dir, real string) error {
			rel, err := filepath.Rel(dir, real)
			if err != nil {
				return err
			}
			return os.Symlink(rel, filepath.Join(dir, "list"))
		},
		"of links": func(dir, real string) error {
			if err := os.Symlink(filepath.Dir(real), filepath.Join(dir, "there")); err != nil {
				return err
			}
			return os.Symlink("there/../"+filepath.Base(filepath.Dir(real))+"/list", filepath.Join(dir, "list"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, elsewhere := t.TempDir(), t.TempDir()
			path, real := filepath.Join(dir, "list"), filepath.Join(elsewhere, "list")
			write(t, real, "old")
			if err := link(dir, real); err != nil {
				t.Skip(err)
			}
			w, contents := watch(t, path)
			if w.WhyPolled() != nil {
				t.Fatal(w.WhyPolled())
			}
			// The first change may be found by the look at the start.
			for _, content := range []string{"changed behind the link", "changed again"} {
				write(t, real, content)
				awaitEvent(t, contents, content)
			}
		})
	}
}

// awaitEvent waits for a content for a shorter time than that of a regular look.
func awaitEvent(t *testing.T, contents <-chan string, want string) {
	t.Helper()
	begin := time.Now()
	await(t, contents, want)
	if took := time.Since(begin); took > lookEvery/2 {
		t.Errorf("noticed %q after %s, without an event", want, took)
	}
}

// Kubernetes swaps a link to the directory of all files of a volume, and removes the old
// directory. That is one change.
func TestWatch_SwappedLink(t *testing.T) {
	dir := t.TempDir()
	put := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "list"), content)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Skip(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..1", "one")
	path := filepath.Join(dir, "list")
	if err := os.Symlink(filepath.Join("..data", "list"), path); err != nil {
		t.Fatal(err)
	}
	w, contents := watch(t, path)
	for i, content := range []string{"two", "three", "four"} {
		put(fmt.Sprintf("..%d", i+2), content)
		if !w.Unsettled() {
			t.Error("the swap is no change")
		}
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", i+1))); err != nil {
			t.Fatal(err)
		}
		awaitEvent(t, contents, content)
	}
	write(t, filepath.Join(dir, "..4", "list"), "written in place")
	awaitEvent(t, contents, "written in place")
	select {
	case c := <-contents:
		t.Errorf("a second notice of %q", c)
	case <-time.After(3 * settle):
	}
	if n := watchedDirs(); n != 2 {
		t.Errorf("%d directories are watched, want that of the links and that of the file", n)
	}
}

// All files are watched over one queue, those of one directory together, and nothing is left
// of it.
func TestWatch_Shared(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	var watchers []*Watcher
	var contents []<-chan string
	var paths []string
	for i := range 300 { // more than a user may have instances of inotify
		paths = append(paths, filepath.Join([]string{dir, other}[i%2], fmt.Sprint(i)))
		write(t, paths[i], "old")
		w, c := watch(t, paths[i])
		if w.WhyPolled() != nil {
			t.Fatal(w.WhyPolled())
		}
		watchers, contents = append(watchers, w), append(contents, c)
	}
	if n := watchedDirs(); n != 2 {
		t.Errorf("%d directories are watched", n)
	}
	for i := range 200 {
		watchers[i].Stop()
	}
	for i := 200; i < 300; i++ {
		write(t, paths[i], "new")
	}
	for i := 200; i < 300; i++ {
		await(t, contents[i], "new")
	}
	for _, w := range watchers {
		w.Stop()
		w.Stop()
	}
	if n := watchedDirs(); shared.queue != nil || shared.files != 0 || n != 0 {
		t.Errorf("left: %d files, %d directories", shared.files, n)
	}
}

func watchedDirs() int {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return len(shared.dirs)
}

// Where the system tells of no files, that is told once, until it does again.
func TestWatch_WhyPolled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "old")
	for range 2 {
		shared.newQueue = func() (*queue, error) { return nil, os.ErrPermission }
		for _, want := range []error{os.ErrPermission, nil} {
			w := New(path, zap.NewNop())
			if w.events != nil || w.WhyPolled() != want {
				t.Errorf("%v, want %v", w.WhyPolled(), want)
			}
			w.Stop()
		}
		shared.newQueue = newQueue
		w := New(path, zap.NewNop())
		if w.events == nil || w.WhyPolled() != nil {
			t.Error(w.WhyPolled())
		}
		w.Stop()
	}
}

// A directory that is replaced by another one is watched again.
func TestWatch_ReplacedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	put := func(content string) {
		t.Helper()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "list"), content)
	}
	put("old")
	_, contents := watch(t, filepath.Join(dir, "list"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	put("new")
	await(t, contents, "new")
	write(t, filepath.Join(dir, "list"), "written in place")
	awaitEvent(t, contents, "written in place")
}

func TestWayTo(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "a", "list"), "")
	for name, to := range map[string]string{"up": "a/b/../list", "loop": "loop", "abs": filepath.Join(dir, "c"), "none": "a/missing/list", "c/up": "../up"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	for path, want := range map[string][]string{
		"a/list":   {"a list"},
		"up":       {". up", "a list"},
		"abs/up":   {". abs", "c up", ". up", "a list"},
		"abs/none": {". abs", "c none"},
		"none":     {". none", "a missing"},
	} {
		var got []string
		for _, p := range wayTo(filepath.Join(dir, path)) {
			rel, _ := filepath.Rel(dir, p.dir)
			got = append(got, rel+" "+p.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if n := len(wayTo(filepath.Join(dir, "loop"))); n != maxLinks+1 {
		t.Errorf("%d links in a loop", n)
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

// That a file is gone is told once, whatever else happens beside it, and so is that it is
// back, also as it was before. One that is replaced by removing it first is not gone.
func TestWatch_TellsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "list")
		write(t, path, "old")
		logs, lines := observer.New(zap.InfoLevel)
		w := New(path, zap.New(logs))
		if w.events != nil { // they come from outside of the bubble
			_ = w.events.Close()
			w.events = nil
		}
		lines.TakeAll()
		calls := 0
		w.Start(func(bool) bool { calls++; return true })
		defer func() { w.Stop(); <-w.done }()
		for _, step := range []struct {
			what   string
			change func() error
			told   []string
			calls  int
		}{
			{"gone", func() error { return os.Rename(path, path+".away") }, []string{"error: a file that is in use is gone"}, 0},
			{"still", func() error { return nil }, nil, 0},
			{"back", func() error { return os.Rename(path+".away", path) }, []string{"info: a file that was gone is back"}, 0},
			{"unreachable", func() error {
				if err := os.Remove(path); err != nil {
					return err
				}
				return os.Symlink(path, path) // to itself
			}, []string{"error: a file that is in use is gone"}, 0},
			{"another", func() error {
				if err := os.Remove(path); err != nil {
					return err
				}
				return os.WriteFile(path, []byte("another"), 0o600)
			}, []string{"info: a file that was gone is back"}, 1},
		} {
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * lookEvery)
			synctest.Wait()
			var told []string
			for _, l := range lines.TakeAll() {
				told = append(told, l.Level.String()+": "+l.Message)
			}
			if !slices.Equal(told, step.told) || calls != step.calls {
				t.Errorf("%s: told %q, %d calls; want %q, %d", step.what, told, calls, step.told, step.calls)
			}
		}
	})
}

// A file that is there again a moment later was not gone.
func TestWatch_ReplacedByRemoving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, "old")
	logs, lines := observer.New(zap.ErrorLevel)
	w := New(path, zap.New(logs))
	contents := make(chan string, 16)
	w.Start(func(bool) bool { b, _ := os.ReadFile(path); contents <- string(b); return true })
	defer func() { w.Stop(); <-w.done }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "new")
	await(t, contents, "new")
	if lines.Len() > 0 {
		t.Errorf("told %v", lines.All())
	}
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
		w := New(path, zap.NewNop())
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
		w := New(path, zap.NewNop())
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
