package filewatch

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/fsnotify/fsnotify"
)

const (
	// lookEvery is how often the file is looked at without an event.
	lookEvery = 5 * time.Second

	// settle is how long a file must be left alone before it is read: whoever
	// writes it in pieces shall have finished.
	settle = 100 * time.Millisecond

	// A file that was not taken is told of again after againFirst, and after twice as
	// long each time, up to againMax.
	againFirst = time.Second
	againMax   = 30 * time.Second
)

// version is what tells two contents of a file apart without reading them.
type version struct {
	mtime time.Time
	size  int64
	info  os.FileInfo // for os.SameFile
}

func (v version) same(w version) bool {
	if v.info == nil || w.info == nil {
		return v.info == nil && w.info == nil
	}
	return v.mtime.Equal(w.mtime) && v.size == w.size && os.SameFile(v.info, w.info)
}

func look(path string) version {
	info, err := os.Stat(path)
	if err != nil {
		return version{}
	}
	return version{info.ModTime(), info.Size(), info}
}

// Watcher watches one file.
type Watcher struct {
	path   string
	seen   version // that changed was called for last, or that was there at New
	taken  bool    // seen was taken
	pause  time.Duration
	due    time.Time         // when seen is told of again, if it was not taken
	events *fsnotify.Watcher // nil where there are none
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

// New notes how the file looks now. What is read after New and before Start is
// not missed when it changes in between.
func New(path string) *Watcher {
	w := &Watcher{path: path, seen: look(path), taken: true, stop: make(chan struct{}), done: make(chan struct{})}
	if events, err := fsnotify.NewWatcher(); err == nil {
		if err := events.Add(filepath.Dir(path)); err == nil {
			w.events = events
		} else {
			_ = events.Close()
		}
	}
	return w
}

// Start calls changed, from a goroutine of its own and never twice at once,
// whenever the file has changed since New or the last call and is there. changed
// reports whether it has taken the content, or is done with it. If not, it is called
// again, with growing pauses, until it has; again says that the file is the same as
// the last time.
func (w *Watcher) Start(changed func(again bool) (taken bool)) { go w.run(changed) }

// Stop ends the watch, also one that was never started. A call of changed that is
// under way is not waited for.
func (w *Watcher) Stop() {
	w.once.Do(func() {
		close(w.stop)
		if w.events != nil {
			_ = w.events.Close()
		}
	})
}

func (w *Watcher) run(changed func(again bool) bool) {
	defer close(w.done)
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w.events != nil {
		events, failures = w.events.Events, w.events.Errors
	}
	timer := time.NewTimer(settle) // something may have happened since New
	defer timer.Stop()
	for {
		select {
		case <-w.stop:
			return
		case e, ok := <-events:
			if !ok {
				events = nil
			} else if filepath.Base(e.Name) == filepath.Base(w.path) {
				w.due = time.Time{} // it may be readable now
				timer.Reset(settle)
			}
		case _, ok := <-failures:
			if !ok {
				failures = nil
			}
		case <-timer.C:
			timer.Reset(w.look(changed))
		}
	}
}

// look looks at the file, tells of it where that is due, and returns when to look again.
func (w *Watcher) look(changed func(again bool) bool) time.Duration {
	now := look(w.path)
	again := now.same(w.seen)
	switch {
	case now.info == nil || again && w.taken:
		return lookEvery
	case again && time.Now().Before(w.due):
		return min(lookEvery, time.Until(w.due))
	case !again:
		w.pause = 0
	}
	w.seen, w.taken = now, changed(again)
	if w.taken {
		return lookEvery
	}
	w.pause = min(max(2*w.pause, againFirst), againMax)
	w.due = time.Now().Add(w.pause)
	return min(lookEvery, w.pause)
}

// Level is how loudly it is told that a file cannot be used, which is tried again until it
// can: once for each version of it.
func Level(again bool) zapcore.Level {
	if again {
		return zapcore.DebugLevel
	}
	return zapcore.ErrorLevel
}
