package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/caddy-egress/egress/admin"
)

// pty is a terminal: what is written to one end is typed on the other.
func pty(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// However the view ends, the terminal is as it was.
func TestLive_GivesBack(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, end := range []string{"quit", "signal", "panic"} {
		t.Run(end, func(t *testing.T) {
			keyboard, tty := pty(t)
			if !IsTerminal(tty, tty) {
				t.Fatal("it is a terminal")
			}
			before, err := term.GetState(int(tty.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			o := Options{Address: "localhost:2019", Interval: time.Millisecond, Fetch: func(context.Context) (*admin.Snapshot, error) {
				if n++; n == 3 {
					switch end {
					case "quit":
						_, _ = keyboard.WriteString("q")
					case "signal":
						_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
					case "panic":
						panic("broken")
					}
				}
				return snapshot(n), nil
			}}
			ended := make(chan string, 1)
			go func() {
				defer func() {
					if p := recover(); p != nil {
						ended <- "panic"
					}
				}()
				err := Live(t.Context(), tty, tty, o)
				switch signal, ok := errors.AsType[Signal](err); {
				case err == nil:
					ended <- "quit"
				case ok && signal.Signal == syscall.SIGTERM:
					ended <- "signal"
				default:
					ended <- err.Error()
				}
			}()
			var written strings.Builder
			buf := make([]byte, 1<<16)
			for !strings.HasSuffix(written.String(), giveScreen) {
				n, err := keyboard.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				written.Write(buf[:n])
			}
			if got := <-ended; got != end {
				t.Errorf("ended by %s, not %s", got, end)
			}
			if !strings.HasPrefix(written.String(), takeScreen) || !strings.Contains(written.String(), "video.example.com") && !strings.Contains(written.String(), "one.example") {
				t.Errorf("%q", written.String())
			}
			after, err := term.GetState(int(tty.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is another one: %v, %v before, %v", after, before, err)
			}
		})
	}
}

// Where the first snapshot fails, nothing happens to the terminal.
func TestLive_NoAnswer(t *testing.T) {
	keyboard, tty := pty(t)
	want := errors.New("no answer")
	err := Live(t.Context(), tty, tty, Options{Interval: time.Second, Fetch: func(context.Context) (*admin.Snapshot, error) { return nil, want }})
	if err != want {
		t.Error(err)
	}
	_, _ = tty.WriteString("prompt")
	buf := make([]byte, 100)
	if n, err := keyboard.Read(buf); err != nil || string(buf[:n]) != "prompt" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
