package filewatch

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// lookEvery is how often the file is looked at without an event.
	lookEvery = 5 * time.Second

	// settle is how long a file must be left alone before it is read: whoever
	// writes it in pieces shall have finished. Where the system tells that, it must also
	// have been closed by who has written it.
	settle = 100 * time.Millisecond

	// patience is for how long that is waited for: a file that is written without pause
	// is read as it is.
	patience = 5 * time.Second

	// A file that was not taken is told of again after againFirst, and after twice as
	// long each time, up to againMax.
	againFirst = time.Second
	againMax   = 30 * time.Second
)

// event is what happens to a file.
type event uint8

const (
	touched event = iota // it is as whole as it was before
	written              // somebody writes it, and has not closed it
	whole                // it was closed, replaced or removed; or that is not known
	created              // it is new: see creates
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
	v, _ := stat(path)
	return v
}

// stat is look with the reason why nothing is seen.
func stat(path string) (version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return version{}, err
	}
	return version{info.ModTime(), info.Size(), info}, nil
}

// Watcher watches one file.
type Watcher struct {
	path   string
	logger *zap.Logger
	gone   bool    // it was told that the file is gone, and not yet that it is back
	seen   version // that changed was called for last, or that was there at New
	taken  bool    // seen was taken
	pause  time.Duration
	due    time.Time // when seen is told of again, if it was not taken
	events *events   // nil where there are none
	why    error     // there are none, or not all; nil where that was told

	// What has happened since the last look that was no wait for more.
	since   time.Time // zero: nothing
	found   version   // without an event
	writing bool      // and it was not closed

	told atomic.Pointer[version] // that changed is called for, or was called for last

	stop chan struct{}
	once sync.Once
	done chan struct{}
}

// New notes how the file looks now. What is read after New and before Start is
// not missed when it changes in between. The logger is told when the file is looked at
// regularly only (see WhyPolled), and when it is gone and is back.
func New(path string, logger *zap.Logger) *Watcher {
	w := &Watcher{path: path, logger: logger, seen: look(path), taken: true, stop: make(chan struct{}), done: make(chan struct{})}
	seen := w.seen
	w.told.Store(&seen)
	w.events, w.why = newEvents(path)
	if w.events == nil && !shared.tellOnce() {
		w.why = nil
	}
	w.warnPolled()
	return w
}

// WhyPolled returns why changes of the file, or of a link on the way to it, are noticed by
// a regular look only; nil where they are not. That the system tells of no files at all is
// the answer of the first Watcher alone, until it does.
func (w *Watcher) WhyPolled() error { return w.why }

// warnPolled logs that, where it is so.
func (w *Watcher) warnPolled() {
	if w.why != nil {
		w.logger.Warn("changes of files are not told by the system: they are looked at every few seconds, and one that is written in place may be read in part",
			zap.String("file", w.path), zap.Error(w.why))
	}
}

// Unsettled reports whether the file is there and has changed, and changed was not called
// for that yet: perhaps somebody is writing it. It may be called by anybody.
func (w *Watcher) Unsettled() bool {
	now := look(w.path)
	return now.info != nil && !now.same(*w.told.Load())
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
	var events <-chan event
	if w.events != nil {
		events = w.events.happen
	}
	timer := time.NewTimer(settle) // something may have happened since New
	defer timer.Stop()
	for {
		select {
		case <-w.stop:
			return
		case e := <-events:
			w.follow()
			timer.Reset(w.happened(e))
		case <-timer.C:
			w.follow()
			timer.Reset(w.look(changed))
		}
	}
}

// follow keeps the events those of where the path leads, which may be elsewhere now. What
// of that cannot be watched is looked at regularly.
func (w *Watcher) follow() {
	if w.events != nil {
		_ = w.events.follow()
	}
}

// happened notes an event and returns when to look at the file.
func (w *Watcher) happened(e event) time.Duration {
	w.due = time.Time{} // it may be readable now
	if e != touched {
		w.writing = e == written
	}
	if w.since.IsZero() {
		w.since = time.Now()
	}
	left := patience - time.Since(w.since)
	if w.writing {
		return left
	}
	return min(settle, left)
}

// settled reports whether a version of the file that was not told of may be read. One
// that was found without an event is looked at again first: whoever writes it, where
// nothing is told of that, may not have finished.
func (w *Watcher) settled(now version) bool {
	switch {
	case w.since.IsZero():
		w.since, w.found = time.Now(), now
		return false
	case w.found.info != nil && !w.found.same(now):
		w.found = now
		return time.Since(w.since) >= patience
	}
	return true
}

// look looks at the file, tells of it where that is due, and returns when to look again.
func (w *Watcher) look(changed func(again bool) bool) time.Duration {
	now, err := stat(w.path)
	again := now.same(w.seen)
	if (now.info != nil && !again || err != nil && !w.gone) && !w.settled(now) {
		return settle // who replaces a file may remove it first
	}
	w.since, w.found = time.Time{}, version{}
	if w.gone != (err != nil) {
		w.gone = err != nil
		TellGone(w.logger, w.path, "what was read from it stays in force", err)
	}
	switch {
	case now.info == nil || again && w.taken:
		return lookEvery
	case again && time.Now().Before(w.due):
		return min(lookEvery, time.Until(w.due))
	case !again:
		w.pause = 0
	}
	w.seen = now
	w.told.Store(&now)
	w.taken = changed(again)
	if w.taken {
		return lookEvery
	}
	w.pause = min(max(2*w.pause, againFirst), againMax)
	w.due = time.Now().Add(w.pause)
	return min(lookEvery, w.pause)
}

// TellGone logs that a file which was there cannot be seen any more, and what that means;
// or, without an error, that it is back. It is for changes from one to the other.
func TellGone(logger *zap.Logger, path, until string, err error) {
	if err != nil {
		logger.Error("a file that is in use is gone", zap.String("file", path), zap.String("until_it_is_back", until), zap.Error(err))
		return
	}
	logger.Info("a file that was gone is back", zap.String("file", path))
}

// Level is how loudly it is told that a file cannot be used, which is tried again until it
// can: once for each version of it.
func Level(again bool) zapcore.Level {
	if again {
		return zapcore.DebugLevel
	}
	return zapcore.ErrorLevel
}
