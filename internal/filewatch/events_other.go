//go:build !linux

package filewatch

import (
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// dirID is the path of a directory.
type dirID string

// queue is what the system has, as fsnotify finds it. That the writer of a file has closed
// it is not known.
type queue struct{ *fsnotify.Watcher }

func newQueue() (*queue, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	return &queue{w}, nil
}

// add watches a directory. It is not called once the queue is closed.
func (q *queue) add(dir string) (dirID, error) { return dirID(dir), q.Add(dir) }

// remove ends the watch of a directory.
func (q *queue) remove(id dirID) { _ = q.Remove(string(id)) }

// read tells what happens until the queue is closed.
func (q *queue) read(tell func(occurrence)) {
	for {
		select {
		case ev, ok := <-q.Events:
			if !ok {
				return
			}
			dir := dirID(filepath.Dir(ev.Name))
			tell(occurrence{dir: dir, name: filepath.Base(ev.Name), what: whole})
			if ev.Has(fsnotify.Remove) {
				tell(occurrence{dir: dirID(ev.Name), what: whole, gone: true}) // if it is one
			}
		case _, ok := <-q.Errors:
			if !ok {
				return
			}
			tell(occurrence{what: whole, lost: true})
		}
	}
}

// creates is what it says that an entry was created.
func creates(string) event { return whole }
