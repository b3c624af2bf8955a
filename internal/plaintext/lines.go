package plaintext

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Lines tells each of every line of a file that is not blank, without the space
// around it. Errors of each are told with file and line, as is one that is longer
// than max bytes. The path in errors is the whole one.
func Lines(path string, max int, each func(line string) error) error {
	path = FullPath(path)
	// Of a pipe or a device there would be no end, or only one reading; to open
	// one can wait forever.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	defer f.Close()
	return ScanLines(path, f, max, each)
}

// ScanLines is Lines for what was opened already.
func ScanLines(path string, r io.Reader, max int, each func(line string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, max), max)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s:%d: the line is longer than %d bytes", path, n+1, max)
	case err != nil:
		return fmt.Errorf("file: %w", err)
	}
	return nil
}

// FullPath is a path with the working directory before it, if it is relative: one that is
// read otherwise than it was meant is found by that.
func FullPath(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// WithoutComment is a line without the comment on it, which begins with a # at the
// beginning or behind space, and without space around it. One within a word is part of it.
func WithoutComment(line string) string {
	for i := 0; i < len(line); i++ {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
		}
	}
	return strings.TrimSpace(line)
}
