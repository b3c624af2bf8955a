package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/raceflag"
)

// This file contains what the tests of overload share: a Caddy in a process of its
// own, whose limits can be set and whose resources be counted, and a victim, who
// must be served meanwhile.

// long makes the tests of overload as heavy as docs/reliability.md has them.
var long = os.Getenv("EGRESS_LONG") != ""

// scaled is how many to use of something, in the short and in the long form.
func scaled(short, full int) int {
	if long {
		return full
	}
	return short
}

// memory is what may be used of it where a plain build may use so much: the race
// detector keeps books of its own.
func memory(plain int) int {
	if raceflag.On {
		return 4 * plain
	}
	return plain
}

// abused is a Caddy in a process of its own.
type abused struct {
	addr, admin string
	cmd         *exec.Cmd
	exited      chan struct{}
	said        *bytes.Buffer // only after exited
}

// startAbused runs a Caddy under the limits that a line of sh(1) sets.
func startAbused(t *testing.T, limits, egress string, env ...string) *abused {
	t.Helper()
	p := &abused{addr: freeAddr(t), admin: freeAddr(t), exited: make(chan struct{}), said: new(bytes.Buffer)}
	config := filepath.Join(t.TempDir(), "Caddyfile")
	text := fmt.Sprintf(`%s
http://:%s {
	bind 127.0.0.1
	egress {
		%s
		%s
	}
}
`, globals{admin: p.admin, storage: t.TempDir(), more: "log default {\n level ERROR\n}"}, port(p.addr), usual, egress)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("/bin/sh", "-c", limits+"; exec "+self+" run --config "+config+" --adapter caddyfile")
	p.cmd.Env = append(append(os.Environ(), asCaddy+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		crashed := p.gone()
		_ = p.cmd.Process.Kill()
		<-p.exited
		if crashed || t.Failed() || strings.Contains(p.said.String(), "panic") {
			t.Errorf("crashed: %t; Caddy said: %.4000s", crashed, p.said)
		}
	})
	eventually(t, "Caddy to listen", func() bool {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

func (p *abused) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// level is what the process holds.
type level struct {
	descriptors, goroutines, rssKiB int
}

var (
	rssLine       = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)
	goroutineLine = regexp.MustCompile(`^goroutine profile: total (\d+)`)
)

func (p *abused) level(t *testing.T) (l level) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	l.descriptors = len(fds)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if m := rssLine.FindSubmatch(status); m != nil {
		l.rssKiB, _ = strconv.Atoi(string(m[1]))
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + p.admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return l // no descriptor for it
	}
	defer resp.Body.Close()
	first, _ := bufio.NewReader(resp.Body).ReadString('\n')
	if m := goroutineLine.FindStringSubmatch(first); m != nil {
		l.goroutines, _ = strconv.Atoi(m[1])
	}
	return l
}

// recovers waits until the process holds no more than at the start, but for idle
// connections to origins and what serves the question itself.
func (p *abused) recovers(t *testing.T, start level) {
	t.Helper()
	const slack = 10
	var now level
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		now = p.level(t)
		if now.goroutines > 0 && now.descriptors <= start.descriptors+slack && now.goroutines <= start.goroutines+slack {
			t.Logf("at the start %+v, in the end %+v", start, now)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("at the start %+v, in the end %+v", start, now)
		}
	}
}

// raw is a connection of a client to the proxy.
type raw struct {
	net.Conn
	br *bufio.Reader
}

func (p *abused) dial(t *testing.T) *raw {
	t.Helper()
	c, err := p.tryDial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *abused) tryDial() (*raw, error) {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	return &raw{conn, bufio.NewReaderSize(conn, 1<<10)}, nil
}

// reply is how a request ended for its client.
type reply struct {
	status int // 0 where there was no answer
	shed   bool
	body   string
	took   time.Duration
	err    error
}

// ask sends a request and reads the whole answer, or the head only of one to
// CONNECT.
func (c *raw) ask(request string, within time.Duration) (r reply) {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	_ = c.SetDeadline(start.Add(within))
	if _, err := io.WriteString(c, request); err != nil {
		return reply{err: err}
	}
	return c.answer()
}

func (c *raw) answer() (r reply) {
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return reply{err: err}
	}
	r.status = resp.StatusCode
	r.shed = r.status == 503 && strings.HasPrefix(resp.Header.Get("Proxy-Status"), "caddy; error=")
	if r.status == 200 && resp.ContentLength < 0 {
		return r // a tunnel
	}
	body, err := io.ReadAll(resp.Body)
	r.body, r.err = string(body), err
	return r
}

func getOf(origin, path string) string {
	return fmt.Sprintf("GET http://%s%s HTTP/1.1\r\nHost: x\r\n\r\n", origin, path)
}

// healthy is an origin that answers at once.
func healthy(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "fine "+r.URL.Path) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// mute is an origin that takes connections and neither reads nor answers.
func mute(t *testing.T) (addr string, conns *atomic.Int64) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				<-done
				conn.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		close(done)
	})
	return ln.Addr().String(), conns
}

// victim is a client that wants to be served all the time, over connections of its
// own that are new each time, and over one that stays.
type victim struct {
	stopped chan struct{}
	done    chan struct{}
	enough  chan struct{} // it has asked often enough to tell something
	asked   int
	shed    int
	worst   time.Duration
	failed  []reply
}

// watch lets a victim ask. With mayShed, a 503 that says why is service enough.
func (p *abused) watch(t *testing.T, origin string, mayShed, anew bool) *victim {
	t.Helper()
	v := &victim{stopped: make(chan struct{}), done: make(chan struct{}), enough: make(chan struct{})}
	stays := p.dial(t)
	go func() {
		defer close(v.done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			c := stays
			if anew && v.asked%2 == 1 {
				var err error
				if c, err = p.tryDial(); err != nil {
					v.failed = append(v.failed, reply{err: err})
					return
				}
			}
			path := fmt.Sprintf("/%d", v.asked)
			r := c.ask(getOf(origin, path), patience)
			if v.asked++; v.asked == 3 {
				close(v.enough)
			}
			v.worst = max(v.worst, r.took)
			switch {
			case r.status == 200 && r.body == "fine "+path:
			case mayShed && r.shed:
				v.shed++
			default:
				v.failed = append(v.failed, r)
				return
			}
			if c != stays {
				c.Close()
			}
			select {
			case <-v.stopped:
				return
			case <-tick.C:
			}
		}
	}()
	return v
}

// served ends the watch: the victim was served all the time.
func (v *victim) served(t *testing.T) {
	t.Helper()
	select {
	case <-v.enough:
	case <-v.done: // it has failed
	}
	close(v.stopped)
	<-v.done
	if len(v.failed) > 0 {
		t.Errorf("the victim: %d requests, %d shed, failed: %+v", v.asked, v.shed, v.failed)
	}
	t.Logf("the victim: %d requests, %d of them shed, the slowest took %s", v.asked, v.shed, v.worst.Round(time.Millisecond))
}
