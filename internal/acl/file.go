package acl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how subjects of rules are read from files.

// maxSubjectLine is far more than the longest name and a comment behind it. A file
// with longer lines is no list of subjects.
const maxSubjectLine = 4 << 10

// readSubjects tells add of each subject in a file, and reports whether the file is blank:
// it has not even a comment. Errors name file and line.
func readSubjects(path string, add func(subject) error) (blank bool, err error) {
	if path == "" {
		return false, errors.New("a file needs a path")
	}
	blank = true
	each := eachSubject(add)
	err = plaintext.Lines(path, maxSubjectLine, func(line string) error {
		blank = false
		return each(line)
	})
	return blank, err
}

// emptied is an error if a file is blank that was not when the list was made that is in
// force. It was cut off, more likely than not, and what it denied would be open.
func (l *List) emptied(inForce *List) error {
	for _, path := range l.blank {
		if !slices.Contains(inForce.blank, path) {
			return fmt.Errorf("file: %s is empty now; if that is meant, write a comment into it (a line that begins with #), or reload the configuration",
				plaintext.FullPath(path))
		}
	}
	return nil
}

// eachSubject reads the lines of a list of subjects.
func eachSubject(add func(subject) error) func(line string) error {
	return func(line string) error {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			return nil
		}
		s, err := parseSubject(line)
		switch {
		case err == nil:
			err = add(s)
		case ofHostsFile(line):
			err = errors.New("a line of a hosts file; write one name a line, without an address")
		}
		if err != nil {
			return fmt.Errorf("subject '%s': %w", plaintext.Printable(line), err)
		}
		return nil
	}
}

// ofHostsFile reports whether a line has an address, and names for it.
func ofHostsFile(line string) bool {
	fields := strings.Fields(line)
	_, err := netip.ParseAddr(fields[0])
	return len(fields) > 1 && err == nil
}
