package filewatch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watched are the events of a directory that concern a file in it. fsnotify knows the same
// but for the one that matters most: that whoever has written the file has closed it.
const watched = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE |
	unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR

// dirID is a watch descriptor. Of two paths to the same directory it is the same.
type dirID int32

// queue is an instance of inotify.
type queue struct {
	*os.File
	fd int
}

func newQueue() (*queue, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == unix.EMFILE {
		return nil, fmt.Errorf("inotify_init1: %w (see fs.inotify.max_user_instances, and the limit of open files)", err)
	}
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &queue{os.NewFile(uintptr(fd), "inotify"), fd}, nil
}

// add watches a directory. It is not called once the queue is closed.
func (q *queue) add(dir string) (dirID, error) {
	wd, err := unix.InotifyAddWatch(q.fd, dir, watched)
	if err == unix.ENOSPC {
		return 0, fmt.Errorf("inotify_add_watch: %s: fs.inotify.max_user_watches is reached", dir)
	}
	if err != nil {
		return 0, fmt.Errorf("inotify_add_watch: %s: %w", dir, err)
	}
	return dirID(wd), nil
}

// remove ends the watch of a directory.
func (q *queue) remove(id dirID) { _, _ = unix.InotifyRmWatch(q.fd, uint32(id)) }

// read tells what happens until the queue is closed.
func (q *queue) read(tell func(occurrence)) {
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := q.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			id := dirID(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])), len(rest))
			name := bytes.TrimRight(rest[unix.SizeofInotifyEvent:end], "\x00")
			rest = rest[end:]
			tell(occurrence{
				dir: id, name: string(name), what: meaning(mask),
				lost: mask&unix.IN_Q_OVERFLOW != 0, gone: mask&unix.IN_IGNORED != 0,
			})
		}
	}
}

// meaning is what an event says about who writes the file.
func meaning(mask uint32) event {
	switch {
	case mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_Q_OVERFLOW|unix.IN_IGNORED) != 0:
		return whole
	case mask&unix.IN_MODIFY != 0:
		return written
	case mask&unix.IN_CREATE != 0:
		return created
	}
	return touched
}

// creates is what it says that an entry was created: a file is written by who has created
// it, and has it open.
func creates(path string) event {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		return written
	}
	return touched
}
