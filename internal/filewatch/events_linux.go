package filewatch

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// watched are the events of a directory that concern a file in it. fsnotify knows the same
// but for the one that matters most: that whoever has written the file has closed it.
const watched = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE |
	unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR

// events tells what happens to a file.
type events struct {
	path   string
	queue  *os.File
	happen chan event
	closed chan struct{}
	once   sync.Once
}

func newEvents(path string) (*events, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	queue := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), watched); err != nil {
		_ = queue.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	e := &events{path: path, queue: queue, happen: make(chan event), closed: make(chan struct{})}
	go e.read()
	return e, nil
}

// Close ends the events.
func (e *events) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.queue.Close()
}

func (e *events) read() {
	defer close(e.happen)
	name := []byte(filepath.Base(e.path))
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := e.queue.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(rest[4:])
			end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])), len(rest))
			about := bytes.TrimRight(rest[unix.SizeofInotifyEvent:end], "\x00")
			rest = rest[end:]
			if mask&unix.IN_Q_OVERFLOW == 0 && !bytes.Equal(about, name) {
				continue
			}
			select {
			case e.happen <- e.meaning(mask):
			case <-e.closed:
				return
			}
		}
	}
}

// meaning is what an event says about who writes the file.
func (e *events) meaning(mask uint32) event {
	switch {
	case mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_Q_OVERFLOW) != 0:
		return whole
	case mask&unix.IN_MODIFY != 0:
		return written
	case mask&unix.IN_CREATE != 0:
		if info, err := os.Lstat(e.path); err == nil && info.Mode().IsRegular() {
			return written // by who has created it, and has it open
		}
	}
	return touched
}
