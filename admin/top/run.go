package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddy-egress/egress/admin"
)

// Options are what the view is run with.
type Options struct {
	// Address is where the snapshots are from, for people.
	Address string
	// Fetch returns a snapshot. The context has a limit.
	Fetch func(context.Context) (*admin.Snapshot, error)
	// Interval is from one snapshot to the next.
	Interval time.Duration
}

// Once writes one snapshot as plain text. Rates take two, so that it lasts an interval.
func Once(ctx context.Context, w io.Writer, o Options) error {
	before, err := o.Fetch(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(o.Interval):
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := o.Fetch(ctx)
	if err != nil {
		return err
	}
	return WritePlain(w, o.Address, before, s)
}

// Live is the live view on a terminal. It returns when the user quits, with an error that
// is a Signal where one has ended it. The terminal is then as it was before.
func Live(ctx context.Context, in, out *os.File, o Options) error {
	first, err := o.Fetch(ctx)
	if err != nil {
		return err // before anything has happened to the terminal
	}
	term, err := takeTerminal(in, out)
	if err != nil {
		return err
	}
	defer term.giveBack() // whatever happens, a panic too
	l := &loop{
		Options: o, model: newModel(o.Address, painter{colours: os.Getenv("NO_COLOR") == ""}),
		out: out, size: term.size, resized: term.resized, ended: term.ended,
	}
	l.model.took(first)
	return l.run(ctx, in)
}

// Signal is a signal that has ended the view.
type Signal struct{ os.Signal }

func (s Signal) Error() string { return "ended by a signal: " + s.String() }

// loop is what runs the view.
type loop struct {
	Options
	model   *model
	out     io.Writer
	size    func() (cols, rows int)
	resized <-chan os.Signal
	ended   <-chan os.Signal

	fetching bool
	fetched  chan fetched
	keys     chan key
	gone     chan error // why there are no more keys
	panicked chan string
}

type fetched struct {
	snapshot *admin.Snapshot
	err      error
}

func (l *loop) run(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.fetched, l.keys, l.gone, l.panicked = make(chan fetched, 1), make(chan key), make(chan error, 1), make(chan string, 1)
	l.beside(func() { l.gone <- readKeys(ctx, in, l.keys) })
	next := time.NewTimer(l.Interval)
	defer next.Stop()
	for {
		if err := l.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-l.ended:
			return Signal{s}
		case err := <-l.gone:
			return fmt.Errorf("reading keys: %w", err)
		case p := <-l.panicked:
			panic(p) // here, where the terminal is given back
		case <-l.resized:
		case k := <-l.keys:
			switch l.model.press(k) {
			case quit:
				return nil
			case refresh:
				l.fetch(ctx)
			}
		case <-next.C:
			if !l.model.paused {
				l.fetch(ctx)
			}
		case f := <-l.fetched:
			l.take(f)
			next.Reset(l.Interval)
		}
	}
}

// fetch asks for a snapshot, unless that is under way.
func (l *loop) fetch(ctx context.Context) {
	if l.fetching {
		return
	}
	l.fetching = true
	l.beside(func() {
		s, err := l.Fetch(ctx)
		l.fetched <- fetched{s, err}
	})
}

// take takes what was fetched. While the view is paused, it stays as it is.
func (l *loop) take(f fetched) {
	l.fetching = false
	switch {
	case l.model.paused:
	case f.err != nil:
		l.model.failed(f.err, time.Now())
	default:
		l.model.took(f.snapshot)
	}
}

// beside runs f in a goroutine of its own. A panic there is one of the loop.
func (l *loop) beside(f func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				l.panicked <- fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		f()
	}()
}

// draw writes the frame, in one piece so that it does not flicker.
func (l *loop) draw() error {
	l.model.cols, l.model.rows = l.size()
	lines := l.model.frame()
	_, err := io.WriteString(l.out, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}

// readKeys reads keys until there are no more.
func readKeys(ctx context.Context, in io.Reader, keys chan<- key) error {
	buf, pending := make([]byte, 256), ""
	for {
		n, err := in.Read(buf)
		pending += string(buf[:n])
		for {
			k, rest, ok := nextKey(pending)
			pending = rest
			if !ok {
				break
			}
			select {
			case keys <- k:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the terminal is gone")
		case err != nil:
			return err
		}
	}
}
