package top

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// This file contains how a terminal is taken, and given back as it was.

const (
	// The alternate screen keeps what stands in the terminal. Lines are not wrapped, so that
	// a wrong width spoils one line only.
	takeScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	giveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// IsTerminal reports whether a live view can be shown: both ends are a terminal that knows
// how to move its cursor.
func IsTerminal(in, out *os.File) bool {
	kind := os.Getenv("TERM")
	return kind != "dumb" && kind != "" && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd()))
}

// terminal is one that was taken.
type terminal struct {
	in, out *os.File
	was     *term.State
	resized chan os.Signal
	ended   chan os.Signal
}

func takeTerminal(in, out *os.File) (*terminal, error) {
	t := &terminal{in: in, out: out, resized: make(chan os.Signal, 1), ended: make(chan os.Signal, 1)}
	// Signals first: one that comes between would leave the terminal as it is then.
	signal.Notify(t.ended, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	notifyResize(t.resized)
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		signal.Stop(t.ended)
		signal.Stop(t.resized)
		return nil, fmt.Errorf("the terminal cannot be read key by key (--once does not need that): %w", err)
	}
	t.was = was
	if _, err := io.WriteString(out, takeScreen); err != nil {
		t.giveBack()
		return nil, err
	}
	return t, nil
}

// giveBack makes the terminal what it was.
func (t *terminal) giveBack() {
	_, _ = io.WriteString(t.out, giveScreen)
	_ = term.Restore(int(t.in.Fd()), t.was)
	signal.Stop(t.ended)
	signal.Stop(t.resized)
}

// size is how many cells there are; what most terminals have, where it does not say.
func (t *terminal) size() (cols, rows int) {
	cols, rows, err := term.GetSize(int(t.out.Fd()))
	if err != nil || cols <= 0 || rows <= 0 {
		return 80, 24
	}
	return cols, rows
}
