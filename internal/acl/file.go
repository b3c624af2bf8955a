package acl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
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
	return plaintext.Lines(path, maxSubjectLine, eachSubject(add))
}

// eachSubject reads the lines of a list of subjects.
func eachSubject(add func(subject) error) func(line string) error {
	return func(line string) error {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			return nil
		}
		s, err := parseSubject(line)
		if err == nil {
			err = add(s)
		}
		if err != nil {
			return fmt.Errorf("subject '%s': %w", plaintext.Printable(line), err)
		}
		return nil
	}
}
