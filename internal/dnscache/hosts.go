package dnscache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hostsCheck is how often the hosts file is looked at.
const hostsCheck = 5 * time.Second

// maxHostsFile bounds how much of a hosts file is read.
const maxHostsFile = 16 << 20

// SystemHostsFile is where the hosts file of this system is.
func SystemHostsFile() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("SystemRoot"), "System32", "drivers", "etc", "hosts")
	}
	return "/etc/hosts"
}

// hosts are names whose addresses are not asked for: static ones, and those of a
// file.
type hosts struct {
	static map[string]*fixed
	path   string
	file   atomic.Pointer[hostsFile] // nil as long as it was not read

	mu    sync.Mutex
	first *firstRead // under way, nil where none is; guarded by mu
}

// firstRead is a reading of the file while nothing of it is known yet.
type firstRead struct {
	done chan struct{}
	err  error // set before done is closed
}

// fixed are the addresses of a name, ready to be handed out.
type fixed [families]Answer

// hostsFile is what the file held when it was read.
type hostsFile struct {
	names   map[string]*fixed
	modTime time.Time
	size    int64
	checked atomic.Int64 // unix nanoseconds
}

func newHosts(static map[string][]netip.Addr, path string) *hosts {
	h := &hosts{path: path, static: make(map[string]*fixed, len(static))}
	for name, addrs := range static {
		h.static[name] = newFixed(name, addrs)
	}
	return h
}

func newFixed(name string, addrs []netip.Addr) *fixed {
	var byFamily [families][]netip.Addr
	for _, a := range addrs {
		f := FamilyOf(a)
		byFamily[f] = append(byFamily[f], a)
	}
	out := new(fixed)
	for f := range families {
		if out[f].Addrs = usable(byFamily[f]); len(out[f].Addrs) == 0 {
			out[f] = Answer{Err: notFound(name, f, false, fixedQuestion)}
		}
	}
	return out
}

// lookup returns the addresses of a name that is known here. Of such a name
// nothing is asked elsewhere, also where it has no address of the family. As long as the
// file is not ready, its names are not known.
func (h *hosts) lookup(name string, f Family, now time.Time) (Answer, bool) {
	if known, ok := h.static[name]; ok {
		return known[f], true
	}
	if file := h.current(now); file != nil {
		if known, ok := file.names[name]; ok {
			return known[f], true
		}
	}
	return Answer{}, false
}

// ready waits until the file was read. Whoever comes first reads it, and the others wait
// for that. Where it cannot be read, nobody knows whose names are in it: the next who
// comes tries again.
func (h *hosts) ready(ctx context.Context) error {
	if h.path == "" || h.file.Load() != nil {
		return nil
	}
	h.mu.Lock()
	r := h.first
	switch {
	case h.file.Load() != nil:
		h.mu.Unlock()
		return nil
	case r == nil:
		r = &firstRead{done: make(chan struct{})}
		h.first = r
		h.mu.Unlock()
		h.readFirst(r)
		return r.err
	}
	h.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hosts) readFirst(r *firstRead) {
	file, err := h.read(nil)
	if err == nil {
		file.checked.Store(time.Now().UnixNano())
		h.file.Store(file)
	} else {
		r.err = fmt.Errorf("%w: %w", ErrHostsFile, err)
	}
	h.mu.Lock()
	h.first = nil
	h.mu.Unlock()
	close(r.done)
}

// current is the content of the file, read again if it has changed since it was
// last looked at; nil if it was never read. Whoever comes while another looks gets the
// content from before, which also stays where the file cannot be read.
func (h *hosts) current(now time.Time) *hostsFile {
	file := h.file.Load()
	if file == nil {
		return nil
	}
	last := file.checked.Load()
	if now.UnixNano()-last < int64(hostsCheck) || !file.checked.CompareAndSwap(last, now.UnixNano()) {
		return file
	}
	next, err := h.read(file)
	if err != nil || next == file {
		return file // it is looked at again
	}
	next.checked.Store(now.UnixNano())
	h.file.Store(next)
	return next
}

// read is what the file holds, which is last where it has not changed. One that is
// gone names nobody, and so does one that this process was never allowed to read; of one
// that cannot be read otherwise nothing is known.
func (h *hosts) read(last *hostsFile) (*hostsFile, error) {
	next, err := h.readChanged(last)
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, fs.ErrNotExist) && last != nil && len(last.names) == 0:
		return last, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission) && last == nil:
		return new(hostsFile), nil
	}
	return nil, err
}

func (h *hosts) readChanged(last *hostsFile) (*hostsFile, error) {
	info, err := os.Stat(h.path)
	if err != nil {
		return nil, err
	}
	if last != nil && info.ModTime().Equal(last.modTime) && info.Size() == last.size {
		return last, nil
	}
	names, err := readHosts(h.path)
	if err != nil {
		return nil, err
	}
	return &hostsFile{names: names, modTime: info.ModTime(), size: info.Size()}, nil
}

// readHosts reads a file in the format of hosts(5): an address and its names a
// line, comments behind #. Lines that make no sense are passed over, as resolvers
// do.
func readHosts(path string) (map[string]*fixed, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseHosts(f)
}

// parseHosts reads the lines of a hosts file.
func parseHosts(r io.Reader) (map[string]*fixed, error) {
	addrs := make(map[string][]netip.Addr)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxHostsFile) // as long as the lines of block lists may be
	read := 0
	for lines.Scan() && read < maxHostsFile {
		read += len(lines.Bytes()) + 1
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			addrs[name] = append(addrs[name], a)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return nil, err
	}
	out := make(map[string]*fixed, len(addrs))
	for name, list := range addrs {
		out[name] = newFixed(name, list)
	}
	return out, nil
}
