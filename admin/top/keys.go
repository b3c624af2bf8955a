package top

import (
	"strings"
	"unicode/utf8"
)

// This file contains how keys are read from what a terminal sends.

// key is a key: a character, or one of those below.
type key rune

// Keys that are no characters.
const (
	keyEscape key = -1 - iota
	keyEnter
	keyTab
	keyBackTab
	keyBackspace
	keyInterrupt // Ctrl-C
	keyErase     // Ctrl-U
	keyRedraw    // Ctrl-L
	keyUp
	keyDown
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyUnknown
)

var controlKeys = map[byte]key{
	0x03: keyInterrupt, '\t': keyTab, '\r': keyEnter, '\n': keyEnter, 0x7f: keyBackspace, '\b': keyBackspace, 0x15: keyErase, 0x0c: keyRedraw,
}

// sequences are what follows an escape character, for the keys that mean something here.
var sequences = map[string]key{
	"[A": keyUp, "[B": keyDown, "OA": keyUp, "OB": keyDown, "[5~": keyPageUp, "[6~": keyPageDown, "[Z": keyBackTab,
	"[H": keyHome, "OH": keyHome, "[1~": keyHome, "[F": keyEnd, "OF": keyEnd, "[4~": keyEnd,
}

// maxSequence is more bytes than any sequence of a key has.
const maxSequence = 16

// nextKey takes a key from the beginning of what was read, and returns the rest. It takes
// none where more has to be read to know which it is.
func nextKey(in string) (k key, rest string, ok bool) {
	if in == "" {
		return 0, "", false
	}
	if in[0] == 0x1b {
		return nextSequence(in)
	}
	if in[0] < ' ' || in[0] == 0x7f {
		if k, known := controlKeys[in[0]]; known {
			return k, in[1:], true
		}
		return keyUnknown, in[1:], true
	}
	if !utf8.FullRuneInString(in) {
		return 0, in, false
	}
	r, n := utf8.DecodeRuneInString(in)
	if r == utf8.RuneError {
		return keyUnknown, in[n:], true
	}
	return key(r), in[n:], true
}

// nextSequence takes an escape sequence. An escape character that nothing follows is the
// key: a terminal sends a sequence at once.
func nextSequence(in string) (k key, rest string, ok bool) {
	if len(in) == 1 || in[1] != '[' && in[1] != 'O' {
		return keyEscape, in[1:], true
	}
	end := strings.IndexFunc(in[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	switch {
	case end < 0 && len(in) < maxSequence:
		return 0, in, false
	case end < 0:
		return keyUnknown, "", true
	}
	end += 3
	if k, known := sequences[in[1:end]]; known {
		return k, in[end:], true
	}
	return keyUnknown, in[end:], true
}
