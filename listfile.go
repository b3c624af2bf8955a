package egress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// This file contains how lists in files are read, one entry a line.

// readLines tells each of every line of a file that is not blank, without the space
// around it. Errors of each are told with file and line, as is one that is longer
// than max bytes.
func readLines(path string, max int, each func(line string) error) error {
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
	return scanLines(path, f, max, each)
}

func scanLines(path string, r io.Reader, max int, each func(line string) error) error {
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

// levelOfFailure is how loudly it is told that a file cannot be used, which is tried again
// until it can: once for each version of it.
func levelOfFailure(again bool) zapcore.Level {
	if again {
		return zap.DebugLevel
	}
	return zap.ErrorLevel
}
