//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of time in /proc/PID/stat (USER_HZ, 100 on Linux).
const tick = 10 * time.Millisecond

// cpuTime is processor time of a process and its descendants.
type cpuTime struct{ user, system time.Duration }

func (t cpuTime) sub(u cpuTime) cpuTime { return cpuTime{t.user - u.user, t.system - u.system} }
func (t cpuTime) total() time.Duration  { return t.user + t.system }

// stat is what is read from /proc/PID/stat.
type stat struct {
	parent int
	cpu    cpuTime
}

// parseStat reads a line of /proc/PID/stat. The second field, the name of the
// program in brackets, may contain anything.
func parseStat(line []byte) (stat, error) {
	i := bytes.LastIndexByte(line, ')')
	fields := strings.Fields(string(line[i+1:]))
	if i < 0 || len(fields) < 13 {
		return stat{}, fmt.Errorf("stat %q", line)
	}
	var numbers [3]int
	for i, field := range [...]int{1, 11, 12} { // ppid, utime, stime
		var err error
		if numbers[i], err = strconv.Atoi(fields[field]); err != nil {
			return stat{}, err
		}
	}
	return stat{
		parent: numbers[0],
		cpu:    cpuTime{time.Duration(numbers[1]) * tick, time.Duration(numbers[2]) * tick},
	}, nil
}

// tree returns the stats of processes and all their descendants.
func tree(pids ...int) (map[int]stat, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]stat)
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		s, err := parseStat(line)
		if err != nil {
			return nil, err
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		all[id] = s
	}
	in := make(map[int]stat)
	for _, pid := range pids {
		s, ok := all[pid]
		if !ok {
			return nil, fmt.Errorf("process %d has ended", pid)
		}
		in[pid] = s
	}
	for grown := true; grown; {
		grown = false
		for id, s := range all {
			_, known := in[id]
			if _, ours := in[s.parent]; ours && !known {
				in[id], grown = s, true
			}
		}
	}
	return in, nil
}

// cpu returns the processor time of processes and their descendants.
func cpu(pids ...int) (cpuTime, error) {
	processes, err := tree(pids...)
	var sum cpuTime
	for _, s := range processes {
		sum.user += s.cpu.user
		sum.system += s.cpu.system
	}
	return sum, err
}

// memory returns the resident memory, in bytes, of processes and their
// descendants: what is its own (heap and stacks), without the program's text,
// which comes and goes with what else the machine does. Memory of the kernel,
// such as socket buffers, is not in it.
func memory(pids ...int) (int64, error) {
	processes, err := tree(pids...)
	var sum int64
	for id := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
		if err != nil {
			continue
		}
		sum += parseMemory(string(text))
	}
	return sum, err
}

// parseMemory adds up RssAnon and RssShmem of /proc/PID/status.
func parseMemory(status string) (sum int64) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name == "RssAnon" || name == "RssShmem" {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			sum += kib << 10
		}
	}
	return sum
}

// descriptors counts the open files of processes and their descendants.
func descriptors(pids ...int) (int, error) {
	processes, err := tree(pids...)
	n := 0
	for id := range processes {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", id))
		if err != nil {
			return 0, err
		}
		n += len(entries)
	}
	return n, err
}

// killTree ends a process and its descendants. The descendants are those that
// it has now: who has left the tree on purpose, as a daemon does, is not found.
func killTree(pid int) {
	processes, _ := tree(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for id := range processes {
		if id != pid {
			_ = syscall.Kill(id, syscall.SIGKILL)
		}
	}
}

// checkListener sees to it that the process, and nobody else, listens on the
// port: Caddy sets SO_REUSEPORT, and a forgotten instance would take half of
// the load.
func checkListener(pid int, port string) error {
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	var sockets []string
	for _, file := range [...]string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // no IPv6
		}
		sockets = append(sockets, listening(string(text), number)...)
	}
	if len(sockets) == 0 {
		return fmt.Errorf("nobody listens on port %s", port)
	}
	processes, err := tree(pid)
	if err != nil {
		return err
	}
	held := make(map[string]bool)
	for id := range processes {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", id))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil {
				held[target] = true
			}
		}
	}
	for _, inode := range sockets {
		if !held["socket:["+inode+"]"] {
			return fmt.Errorf("somebody else listens on port %s", port)
		}
	}
	return nil
}

// listening returns the inodes of the sockets that listen on a port, from the
// text of /proc/net/tcp.
func listening(text string, port int) (inodes []string) {
	const listen = "0A"
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[3] == listen && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes
}
