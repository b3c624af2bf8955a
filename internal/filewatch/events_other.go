//go:build !linux

package filewatch

import (
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// events tells what happens to a file. That its writer has closed it is not known.
type events struct {
	*fsnotify.Watcher
	happen chan event
}

func newEvents(path string) (*events, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		_ = w.Close()
		return nil, err
	}
	e := &events{w, make(chan event, 1)}
	go e.read(filepath.Base(path))
	return e, nil
}

// read closes happen when the watcher is closed. Nothing is lost where nobody takes an
// event: there is one to be taken already.
func (e *events) read(name string) {
	defer close(e.happen)
	for {
		select {
		case ev, ok := <-e.Events:
			if !ok {
				return
			}
			if filepath.Base(ev.Name) == name {
				select {
				case e.happen <- whole:
				default:
				}
			}
		case _, ok := <-e.Errors:
			if !ok {
				return
			}
		}
	}
}
