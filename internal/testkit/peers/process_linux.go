package peers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child of ours with its descendants.
type process struct {
	pid  int
	done chan struct{} // closed once it is reaped
	out  tail

	mu   sync.Mutex // one pause, resume or stop at a time
	gone bool       // stop has returned
}

// startProcess runs a program without standard input.
func startProcess(path string, args []string, dir string) (*process, error) {
	p := &process{done: make(chan struct{})}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TMPDIR=" + dir}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	// Helpers inherit the pipe behind p.out; they do not delay the end.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child
		// ends: keep it, as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how a peer ends says nothing
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// said is the end of what the program wrote to its standard output and error.
func (p *process) said() string { return p.out.String() }

func (p *process) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.freeze()
	return err
}

// freeze stops the process and its descendants, and waits until they stand still.
// A process may fork until then: it looks again until it finds nobody new.
func (p *process) freeze() (map[int]task, error) {
	stopped := map[int]task{}
	for {
		tree, err := p.tree()
		if err != nil {
			return stopped, err
		}
		grown := false
		for pid, t := range tree {
			if stopped[pid] != t {
				_ = syscall.Kill(pid, syscall.SIGSTOP) // it may have ended
				stopped[pid], grown = t, true
			}
		}
		for pid, t := range stopped {
			t.awaitStopped(pid)
		}
		if !grown {
			return stopped, nil
		}
	}
}

func (p *process) resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.thaw()
}

func (p *process) thaw() error {
	tree, err := p.tree()
	for pid := range tree {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	return err
}

// stop ends the process and its descendants and waits until they are gone.
func (p *process) stop(politely bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	p.gone = true
	tree, err := p.tree()
	if politely && err == nil {
		_ = p.thaw() // a stopped process does not see SIGTERM
		_ = syscall.Kill(p.pid, syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(stopTimeout):
		}
	}
	// The process is our child: its id is not given to another before done.
	if frozen, err := p.freeze(); err == nil {
		for pid, t := range frozen {
			tree[pid] = t
		}
	}
	for pid, t := range tree {
		t.kill(pid)
	}
	<-p.done
	for pid, t := range tree {
		t.awaitEnd(pid)
	}
}

// listens says whether the process or a descendant has a listening TCP socket
// on the port of 127.0.0.1.
func (p *process) listens(port int) bool {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false
	}
	local := fmt.Sprintf("0100007F:%04X", port)
	var socket string
	for line := range strings.Lines(string(table)) {
		const listen = "0A"
		if f := strings.Fields(line); len(f) > 9 && f[1] == local && f[3] == listen {
			socket = "socket:[" + f[9] + "]"
		}
	}
	if socket == "" {
		return false
	}
	tree, _ := p.tree()
	for pid := range tree {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, file := range files {
			if link, _ := os.Readlink(file); link == socket {
				return true
			}
		}
	}
	return false
}

// tree returns the process and its descendants by process id.
func (p *process) tree() (map[int]task, error) {
	select {
	case <-p.done:
		return map[int]task{}, errors.New("the process has ended")
	default:
	}
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]task{}
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if t, ok := lookUp(pid); ok {
			all[pid] = t
		}
	}
	in := map[int]task{p.pid: all[p.pid]}
	for grown := true; grown; {
		grown = false
		for pid, t := range all {
			_, known := in[pid]
			if _, ours := in[t.parent]; ours && !known {
				in[pid], grown = t, true
			}
		}
	}
	return in, nil
}

// task is one process: the time of its start tells it from a later one with the
// same id.
type task struct {
	parent int
	start  string
}

// lookUp returns the process with that id, unless it has ended.
func lookUp(pid int) (task, bool) {
	t, _, ok := lookUpState(pid)
	return t, ok
}

// lookUpState is lookUp with the state of the process: R, S, T, …
func lookUpState(pid int) (t task, state string, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The name of the program, in brackets, may contain anything.
	i := bytes.LastIndexByte(line, ')')
	if err != nil || i < 0 {
		return task{}, "", false
	}
	f := strings.Fields(string(line[i+1:])) // from field 3, the state, on
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return task{}, "", false
	}
	parent, err := strconv.Atoi(f[1])
	return task{parent, f[19]}, f[0], err == nil
}

// alive says whether the process with that id is still this one. The parent may
// have changed.
func (t task) alive(pid int) bool {
	now, ok := lookUp(pid)
	return ok && now.start == t.start
}

func (t task) kill(pid int) {
	if t.alive(pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// awaitStopped waits for a process that was sent SIGSTOP: it runs on until the
// kernel lets it see the signal.
func (t task) awaitStopped(pid int) {
	for deadline := time.Now().Add(killTimeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if now, state, ok := lookUpState(pid); !ok || now.start != t.start || state == "T" {
			return
		}
	}
}

// awaitEnd waits for a process that was killed. It is not our child: there is
// no event for its end.
func (t task) awaitEnd(pid int) {
	for deadline := time.Now().Add(killTimeout); t.alive(pid) && time.Now().Before(deadline); {
		time.Sleep(pollInterval)
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	const keep = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-keep):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
