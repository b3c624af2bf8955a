package filewatch

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// shared is the hub of the process: a user may have few instances of what tells of files
// (128 by default on Linux, fs.inotify.max_user_instances).
var shared = hub{newQueue: newQueue}

// hub tells of all files that are watched, over one queue of the system. While nothing is
// watched it holds none.
type hub struct {
	newQueue func() (*queue, error) // replaced by tests

	// changing is held while the queue is told what to watch, which may wait for what it
	// tells to be taken. It guards what follows.
	changing sync.Mutex
	files    int  // that are watched
	told     bool // that there is no queue

	mu    sync.Mutex // guards what follows; changed by who holds changing too
	queue *queue     // nil: nothing is watched
	dirs  map[dirID]*dir
}

// dir is a directory that is watched.
type dir struct {
	path  string
	names map[*events][]string // in it that matter to a file
}

// events tells what happens to a file, and to the links on the way to it.
type events struct {
	path   string
	happen chan event // what was not taken is merged

	telling sync.Mutex
	dirs    []dirID // guarded by hub.changing
	closed  bool    // guarded by hub.changing
}

// newEvents watches a file. An error beside events is why some of the way to it, but not
// all, is not watched.
func newEvents(path string) (*events, error) {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if err := shared.open(); err != nil {
		return nil, err
	}
	e := &events{path: path, happen: make(chan event, 1)}
	return e, e.follow()
}

// open makes sure that there is a queue, for one more file.
func (h *hub) open() error {
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.queue == nil {
		q, err := h.newQueue()
		if err != nil {
			return err
		}
		h.mu.Lock()
		h.queue, h.dirs = q, make(map[dirID]*dir)
		h.mu.Unlock()
		h.told = false
		go q.read(func(o occurrence) { h.deliver(q, o) })
	}
	h.files++
	return nil
}

// tellOnce reports whether it was not told yet that there is no queue.
func (h *hub) tellOnce() bool {
	h.changing.Lock()
	defer h.changing.Unlock()
	told := h.told
	h.told = true
	return !told
}

// follow watches the directories of all links on the way to the file, and its own, as the
// way is now.
func (e *events) follow() (failed error) {
	way := wayTo(e.path)
	h := &shared
	h.changing.Lock()
	defer h.changing.Unlock()
	if e.closed {
		return nil
	}
	now := make(map[dirID]*dir)
	for _, p := range way {
		id, err := h.queue.add(p.dir)
		if err != nil {
			failed = err
			continue
		}
		if now[id] == nil {
			now[id] = &dir{path: p.dir, names: make(map[*events][]string)}
		}
		now[id].names[e] = append(now[id].names[e], p.name)
	}
	h.set(e, now)
	return failed
}

// set makes the directories that are watched for a file other ones.
func (h *hub) set(e *events, now map[dirID]*dir) {
	var left []dirID
	h.mu.Lock()
	for id, d := range now {
		if known := h.dirs[id]; known != nil {
			known.names[e] = d.names[e]
		} else {
			h.dirs[id] = d
		}
	}
	for _, id := range e.dirs {
		d := h.dirs[id]
		if d == nil || now[id] != nil {
			continue // where it is nil, the directory was removed
		}
		delete(d.names, e)
		if len(d.names) == 0 {
			delete(h.dirs, id)
			left = append(left, id)
		}
	}
	h.mu.Unlock()
	e.dirs = slices.Collect(maps.Keys(now))
	for _, id := range left {
		h.queue.remove(id)
	}
}

// Close ends the events.
func (e *events) Close() error {
	h := &shared
	h.changing.Lock()
	defer h.changing.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	h.set(e, nil)
	h.files--
	if h.files > 0 {
		return nil
	}
	q := h.queue
	h.mu.Lock()
	h.queue = nil
	h.mu.Unlock()
	return q.Close()
}

// occurrence is what the system tells.
type occurrence struct {
	dir  dirID
	name string // in dir
	what event

	lost bool // further ones were lost, of whatever directory
	gone bool // dir is not watched any more
}

// deliver tells those to whom it matters.
func (h *hub) deliver(q *queue, o occurrence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.queue != q:
	case o.lost:
		for _, d := range h.dirs {
			d.tell(&o)
		}
	case h.dirs[o.dir] != nil:
		h.dirs[o.dir].tell(&o)
		if o.gone {
			delete(h.dirs, o.dir)
		}
	}
}

func (d *dir) tell(o *occurrence) {
	for e, names := range d.names {
		if o.lost || o.gone || slices.Contains(names, o.name) {
			e.tell(o.meaning(d.path))
		}
	}
}

// meaning is what it says about who writes the file.
func (o *occurrence) meaning(dir string) event {
	if o.what == created {
		return creates(filepath.Join(dir, o.name))
	}
	return o.what
}

// tell never waits for who takes it: what it has not taken yet and what is told now become
// one.
func (e *events) tell(what event) {
	e.telling.Lock()
	defer e.telling.Unlock()
	select {
	case before := <-e.happen:
		if what == touched {
			what = before
		}
	default:
	}
	e.happen <- what
}

// place is an entry of a directory.
type place struct{ dir, name string }

// maxLinks is how many links a way may have, as in Linux.
const maxLinks = 40

// wayTo returns where an absolute path leads: all symbolic links in it, and in what they
// say, and the file at the end, or what is missing.
func wayTo(path string) (way []place) {
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at, rest := root, parts(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		here := place{at, name}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		switch {
		case err != nil || len(rest) == 0 && info.Mode()&os.ModeSymlink == 0:
			return append(way, here)
		case info.Mode()&os.ModeSymlink == 0:
			at = next
			continue
		}
		way = append(way, here)
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return way
		}
		if filepath.IsAbs(to) {
			at = filepath.VolumeName(to) + string(filepath.Separator)
		}
		rest = append(parts(to), rest...)
	}
	return way
}

// parts are the names that a path is made of. Its dots are kept: behind a link, ".." is not
// the directory that the link is in.
func parts(path string) []string {
	path = filepath.ToSlash(path[len(filepath.VolumeName(path)):])
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}
