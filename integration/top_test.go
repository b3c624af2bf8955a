package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// terminal is a shell in a terminal of tmux, which runs on a server of its own.
type terminal struct {
	t    *testing.T
	path string
	env  []string
}

// newTerminal starts a terminal of that size. The test is skipped where there is no tmux,
// unless EGRESS_REQUIRE_PEERS is set.
func newTerminal(t *testing.T, cols, rows int) *terminal {
	t.Helper()
	path, err := exec.LookPath("tmux")
	if err != nil {
		if os.Getenv("EGRESS_REQUIRE_PEERS") == "1" {
			t.Fatal("EGRESS_REQUIRE_PEERS is set and there is no tmux")
		}
		t.Skip("no tmux; set EGRESS_REQUIRE_PEERS=1 to fail instead")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t, path, append(os.Environ(),
		"TMUX_TMPDIR="+shortDir(t), "PS1=$ ", "ENV=", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", asCaddy+"=1", "CADDY="+self)}
	term.tmux("-f", "/dev/null", "new-session", "-d", "-x", strconv.Itoa(cols), "-y", strconv.Itoa(rows), "sh")
	t.Cleanup(func() { term.tmux("kill-server") })
	return term
}

// tmux runs a command of tmux.
func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	cmd := exec.Command(term.path, append([]string{"-u", "-L", "egress"}, args...)...)
	cmd.Env = term.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

func (term *terminal) press(keys ...string) {
	term.t.Helper()
	term.tmux(append([]string{"send-keys"}, keys...)...)
}

// line types a line of the shell.
func (term *terminal) line(text string) {
	term.t.Helper()
	term.tmux("send-keys", "-l", text)
	term.press("Enter")
}

func (term *terminal) screen() string {
	term.t.Helper()
	return term.tmux("capture-pane", "-p")
}

// shows waits until all of these are on the screen.
func (term *terminal) shows(wants ...string) string {
	term.t.Helper()
	return term.until(fmt.Sprintf("%q", wants), func(screen string) bool {
		for _, w := range wants {
			if !strings.Contains(screen, w) {
				return false
			}
		}
		return true
	})
}

func (term *terminal) until(what string, ok func(screen string) bool) string {
	term.t.Helper()
	screen := ""
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if screen = term.screen(); ok(screen) {
			return screen
		}
		if time.Now().After(deadline) {
			term.t.Fatalf("waited in vain for %s on the screen:\n%s", what, screen)
		}
	}
}

// restored expects the shell as it was before the view: its screen, its cursor, its echo.
func (term *terminal) restored(code int) {
	term.t.Helper()
	screen := term.shows("before the view", fmt.Sprintf("code=%d", code))
	if strings.Contains(screen, "[Upstreams") || strings.Contains(screen, "NO CONNECTION") {
		term.t.Errorf("the view is still there:\n%s", screen)
	}
	if got := term.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}"); got != "0 1 1\n" {
		term.t.Errorf("alternate screen, cursor, wrap: %s", got)
	}
	term.line("stty -a | grep -o ' icanon' && stty -a | grep -o ' echo '; echo typed-$((40+2))")
	term.shows("echo typed-$((40+2))", " icanon", " echo", "typed-42")
	term.line("clear; echo before the view")
	term.shows("before the view")
}

// rowOf is the line of the screen with a text, and "" where there is none.
func rowOf(screen, text string) string {
	for line := range strings.Lines(screen) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// traffic sends requests, one after the other, until it is stopped.
func traffic(t *testing.T, p *process, url string) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	c := p.client(t, "h1")
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if r, err := http.NewRequest(http.MethodGet, url, nil); err == nil {
					_, _ = c.try(r)
				}
				time.Sleep(5 * time.Millisecond) // a rate that the machine has room for
			}
		}
	})
	stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// In a real terminal, the view shows what the API tells of real traffic; its keys work; it
// fits into the terminal when that is resized; it goes on when Caddy is back; and when it
// ends, the terminal is as it was.
func TestTop_Terminal(t *testing.T) {
	p := reserve(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	origin, echo := okOrigin(t), newEchoOrigin(t)
	t.Parallel()
	term := newTerminal(t, 150, 30)
	setup := processSetup{egress: groupOf("lb_policy round_robin\n", one, two)}
	p.start(t, setup)
	a, c := adminAPI{p.admin}, commander{t, p.admin}
	tun := p.client(t, "h1").open(t, echo.addr)
	defer tun.Close()
	alive(t, tun, "tunnel")
	stop := traffic(t, p, origin.URL)
	var upstreams []steered
	a.get(t, "upstreams", &upstreams)

	term.line("clear; echo before the view")
	term.shows("before the view")
	view := `"$CADDY" egress top --interval 200ms --address ` + p.admin
	term.line(view + `; echo code=$?`)
	screen := term.shows("[Upstreams 2]", " Tunnels 1 ", "tunnels 1 ", one.url(), two.url(), upstreams[0].ID, upstreams[1].ID, "? help")
	if strings.Contains(screen, "before the view") {
		t.Errorf("the shell is below the view:\n%s", screen)
	}
	rate := regexp.MustCompile(` up +\S+ +([1-9][0-9.]*|0\.[1-9]) `)
	term.until("requests through both", func(screen string) bool {
		return rate.MatchString(rowOf(screen, one.url())) && rate.MatchString(rowOf(screen, two.url()))
	})
	stop()
	term.shows("requests 0.0/s  exchanges 0  tunnels 1")

	// What the API says is what is shown, and when it changes.
	c.run("drain "+two.addr+" --reason disk", 0)
	term.until("the drain", func(screen string) bool {
		row := rowOf(screen, two.url())
		return strings.Contains(row, " drain ") && strings.Contains(row, "disk (by 127.0.0.1)") && strings.Contains(rowOf(screen, one.url()), " up ")
	})
	term.shows("upstreams 2 (1 not up)")
	if colours := term.tmux("capture-pane", "-p", "-e"); !strings.Contains(colours, "\x1b[33mdrain") || !strings.Contains(colours, "\x1b[32mup") {
		t.Errorf("no colours: %q", colours)
	}
	term.press("t")
	var tunnels struct {
		Items []struct {
			ID               uint64
			Target, Upstream string
		}
	}
	a.get(t, "tunnels", &tunnels)
	term.until("the tunnel", func(screen string) bool {
		row := strings.Fields(rowOf(screen, echo.addr))
		return len(row) > 5 && row[0] == fmt.Sprint(tunnels.Items[0].ID) && row[1] == "-" && row[2] == "127.0.0.1" && row[3] == tunnels.Items[0].Target && row[4] == tunnels.Items[0].Upstream
	})
	term.shows("[Tunnels 1]  Failing destinations 0   by rate")
	term.press("s")
	term.shows("by bytes")
	term.press("r")
	term.shows("by bytes, reversed")
	term.press("Tab")
	term.shows("[Failing destinations 0]")
	term.press("u")
	term.shows("[Upstreams 2]")
	term.press("/", "d", "i", "s", "k", "Enter")
	term.until("only what the filter lets pass", func(screen string) bool {
		return strings.Contains(screen, "filter: disk") && rowOf(screen, one.url()) == "" && rowOf(screen, two.url()) != ""
	})
	term.press("Escape")
	term.shows(one.url(), two.url())
	term.press("?")
	term.shows("Any key goes back.")
	term.press("x")
	term.shows("[Upstreams 2]")

	for _, size := range [][2]int{{60, 12}, {40, 8}, {150, 30}} {
		term.tmux("resize-window", "-x", strconv.Itoa(size[0]), "-y", strconv.Itoa(size[1]))
		screen := term.until(fmt.Sprint("a view of ", size), func(screen string) bool {
			lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
			return len(lines) == size[1] && strings.HasPrefix(lines[size[1]-1], "? help") && strings.Contains(screen, "[Upstreams 2]") && strings.Contains(screen, one.url())
		})
		for line := range strings.Lines(screen) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > size[0] {
				t.Errorf("%d characters of %d: %q", n, size[0], line)
			}
		}
	}

	c.run("emergency on --reason break-in", 0)
	term.shows("EMERGENCY: all new requests are denied: break-in (by 127.0.0.1)")
	term.press("p")
	term.shows("PAUSED")
	c.run("emergency off", 0)
	term.shows("EMERGENCY")
	term.press("p")
	term.until("the end of the emergency", func(screen string) bool { return !strings.Contains(screen, "EMERGENCY") })

	// Caddy goes and comes back; what is in storage is there again.
	p.signal(t, syscall.SIGKILL)
	await(t, p.ended, "the process to end")
	term.shows("NO CONNECTION for ", "s: connection refused; trying again, what is shown is old", two.url())
	p.again(t, setup)
	term.until("the new process", func(screen string) bool {
		return !strings.Contains(screen, "NO CONNECTION") && strings.Contains(screen, " Tunnels 0 ") && strings.Contains(rowOf(screen, two.url()), " drain ")
	})
	term.press("q")
	term.restored(0)

	endsInOrder(t, term, view)
	withoutTerminal(t, term, view, one.url())
}

// endsInOrder: the view ends in order by Ctrl-C and by a signal too.
func endsInOrder(t *testing.T, term *terminal, view string) {
	t.Helper()
	term.line(view + `; echo code=$?`)
	term.shows("[Upstreams 2]")
	term.press("C-c")
	term.restored(0)
	pid := filepath.Join(t.TempDir(), "pid")
	term.line(`sh -c 'echo $$ >` + pid + `; exec ` + view + `'; echo code=$?`)
	term.shows("[Upstreams 2]")
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	term.restored(128 + int(syscall.SIGTERM))
}

// withoutTerminal: no colours where none are wanted, and text where there is no terminal.
func withoutTerminal(t *testing.T, term *terminal, view, shown string) {
	t.Helper()
	term.line("NO_COLOR=1 " + view + `; echo code=$?`)
	term.shows("[Upstreams 2]")
	if colours := term.tmux("capture-pane", "-p", "-e"); strings.Contains(colours, "\x1b[") {
		t.Errorf("colours: %q", colours)
	}
	term.press("q")
	term.restored(0)

	// Where the output is no terminal, and with --once, it is one snapshot as text.
	term.line(view + ` | cat; echo code=$?`)
	term.shows("Upstreams: 2", "Tunnels: 0", "code=0")
	term.line("clear; TERM=xterm " + view + ` --once; echo code=$?`)
	screen := term.shows("Upstreams: 2", "Tunnels: 0", "code=0", shown)
	if strings.Contains(screen, "? help") {
		t.Errorf("it is a live view:\n%s", screen)
	}
}

// As text, the view has what the API tells, and as JSON it is what the API answers.
func TestTop_Plain(t *testing.T) {
	p := reserve(t)
	one := newScriptedUpstream(t, "one")
	echo := newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: groupOf("", one)})
	c := commander{t, p.admin}
	tun := p.client(t, "h1").open(t, echo.addr)
	defer tun.Close()
	alive(t, tun, "tunnel")
	out := c.run("top --interval 200ms", 0, "upstreams 1  requests 0.0/s  exchanges 0  tunnels 1", "Upstreams: 1\n", "Tunnels: 1\n", echo.addr, "Failing destinations: 0")
	if strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	row := strings.Fields(rowOf(out[:strings.Index(out, "Tunnels: 1")], one.url()))
	if len(row) < 6 || row[1] != "default" || row[2] != "up" || row[4] != "0.0" || row[5] != "1" {
		t.Errorf("%q", row)
	}
	c.run("top --json", 0, `"upstreams":{"total":1,`, `"tunnels":{"total":1,`, `"version":`)
	c.run("top --handler nobody", 2, "there is no egress handler 'nobody'")
	c.run("top --handler clear --interval 200ms", 0, "Upstreams: 1")
	c.run("top --interval 1ms", 1, "--interval: from 200ms to 1m")
}
