// Package filewatch tells when the content of a file may have changed.
//
// The directory of the file is watched, not the file, since editors and
// configuration management replace files by renaming. Symbolic links to elsewhere
// (Kubernetes mounts its volumes so) and file systems that send no events are
// caught by a look at the file every few seconds.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package filewatch
