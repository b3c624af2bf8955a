// Package filewatch tells when the content of a file may have changed.
//
// The directory of the file is watched, not the file, since editors and configuration
// management replace files by renaming; and so are those of all symbolic links on the way
// to it, which Kubernetes swaps to replace a volume. All files of the process share one
// instance of what the system offers. On Linux that is inotify itself: fsnotify, which is
// used elsewhere, does not tell that a file was closed by who has written it. File systems
// that send no events are caught by a look at the file every few seconds.
//
// A file that is written in place is told of when it was left alone for a moment, on Linux
// when who has written it has closed it as well; but after a few seconds in any case, as
// it is then. Only one that is replaced by renaming is never seen in pieces.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package filewatch
