package egress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// This file contains how subjects of rules are read from files.

// maxSubjectLine is far more than the longest name and a comment behind it. A file
// with longer lines is no list of subjects.
const maxSubjectLine = 4 << 10

// readSubjects tells add of each subject in a file. Errors name file and line.
func readSubjects(path string, add func(subject) error) error {
	if path == "" {
		return errors.New("a file needs a path")
	}
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
	return scanSubjects(path, f, add)
}

func scanSubjects(path string, r io.Reader, add func(subject) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxSubjectLine), maxSubjectLine)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		s, err := parseSubject(line)
		if err == nil {
			err = add(s)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: subject '%s': %w", path, n, printableText(line), err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s:%d: the line is longer than %d bytes", path, n+1, maxSubjectLine)
	case err != nil:
		return fmt.Errorf("file: %w", err)
	}
	return nil
}
