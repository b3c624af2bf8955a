package filewatch

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// lookEvery is how often the file is looked at without an event.
	lookEvery = 5 * time.Second

	// settle is how long a file must be left alone before it is read: whoever
	// writes it in pieces shall have finished.
	settle = 100 * time.Millisecond
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
	seen   version
	events *fsnotify.Watcher // nil where there are none
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

// New notes how the file looks now. What is read after New and before Start is
// not missed when it changes in between.
func New(path string) *Watcher {
	w := &Watcher{path: path, seen: look(path), stop: make(chan struct{}), done: make(chan struct{})}
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
// whenever the file has changed since New or the last call and is there.
func (w *Watcher) Start(changed func()) { go w.run(changed) }

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

func (w *Watcher) run(changed func()) {
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
				timer.Reset(settle)
			}
		case _, ok := <-failures:
			if !ok {
				failures = nil
			}
		case <-timer.C:
			if now := look(w.path); now.info != nil && !now.same(w.seen) {
				w.seen = now
				changed()
			}
			timer.Reset(lookEvery)
		}
	}
}
