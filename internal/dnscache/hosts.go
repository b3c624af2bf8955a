package dnscache

import (
	"bufio"
	"bytes"
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

const (
	// hostsCheck is how often the hosts file is looked at: as often as that, so that a
	// change is seen by whoever asks when it has settled.
	hostsCheck = hostsSettle

	// hostsSettle is how long it must be left alone before it is read again: whoever
	// writes it in pieces shall have finished.
	hostsSettle = time.Second
)

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

	tell func(error) // see Config.TellHostsFile; may be nil
	gone atomic.Bool // and that was told

	looking sync.Mutex
	seen    fileState // at the last look; guarded by looking

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
	fileState
	names map[string]*fixed
	some  bool         // something stands in it, if only a comment
	due   atomic.Int64 // the next look, in unix nanoseconds
}

// fileState tells contents of the file apart without reading them.
type fileState struct {
	missing bool // there is none
	modTime time.Time
	size    int64
}

func (s fileState) same(o fileState) bool {
	return s.missing == o.missing && s.size == o.size && s.modTime.Equal(o.modTime)
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
		if out[f].Addrs, out[f].More = usable(byFamily[f]); len(out[f].Addrs) == 0 {
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
	file, err := h.readNew()
	if err == nil {
		file.due.Store(time.Now().Add(hostsCheck).UnixNano())
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
// last looked at, so that whoever asks a second after the last change sees it; nil if it was
// never read. Whoever comes while another looks gets the
// content from before, which also stays where the file cannot be read, and until it was
// left alone for a moment.
func (h *hosts) current(now time.Time) *hostsFile {
	file := h.file.Load()
	if file == nil || now.UnixNano() < file.due.Load() || !h.looking.TryLock() {
		return file
	}
	defer h.looking.Unlock()
	if file = h.file.Load(); now.UnixNano() < file.due.Load() {
		return file // somebody has looked just now
	}
	next, settles, err := h.look(file)
	wait := hostsCheck
	if settles > 0 {
		wait = settles
	} else {
		h.tellGone(file, next, err)
	}
	if next == nil {
		next = file
	}
	next.due.Store(now.Add(wait).UnixNano())
	h.file.Store(next)
	return next
}

// look is what the file holds now, which is last where it has not changed. It is nil where
// somebody may be writing it, and settles after a while: it was written just now, or has
// changed since the last look and does not tell when. Needs h.looking.
func (h *hosts) look(last *hostsFile) (next *hostsFile, settles time.Duration, err error) {
	before := h.seen
	if h.seen, err = h.state(); err != nil {
		return nil, 0, err
	}
	if h.seen.same(last.fileState) {
		return last, 0, nil
	}
	if age := time.Since(h.seen.modTime); !h.seen.missing && age >= 0 {
		if age < hostsSettle {
			return nil, hostsSettle - age, nil
		}
	} else if !h.seen.same(before) {
		return nil, hostsSettle, nil
	}
	next, err = h.read(h.seen)
	if now, _ := h.state(); !now.same(h.seen) {
		return nil, hostsSettle, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if last.some && !next.some && !next.missing {
		return nil, 0, ErrHostsFileEmpty
	}
	return next, 0, nil
}

// tellGone tells that a file which was read is there no more, or cannot be read, and that
// it is back: once each.
func (h *hosts) tellGone(last, next *hostsFile, err error) {
	was := h.gone.Load()
	if err == nil && next.missing && (was || !last.missing) {
		err = fs.ErrNotExist
	}
	if is := err != nil; is != was && h.gone.CompareAndSwap(was, is) && h.tell != nil {
		h.tell(err)
	}
}

// readNew reads a file of which nothing is known. One that this process was never allowed
// to read names nobody; of one that cannot be read otherwise nothing is known.
func (h *hosts) readNew() (*hostsFile, error) {
	now, err := h.state()
	var file *hostsFile
	if err == nil {
		file, err = h.read(now)
	}
	if errors.Is(err, fs.ErrPermission) {
		return new(hostsFile), nil
	}
	return file, err
}

// state is the state of the file.
func (h *hosts) state() (fileState, error) {
	info, err := os.Stat(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fileState{missing: true}, nil
	case err != nil:
		return fileState{}, err
	}
	return fileState{modTime: info.ModTime(), size: info.Size()}, nil
}

// read is what the file holds, which was seen in a state. One that is gone names nobody.
func (h *hosts) read(now fileState) (*hostsFile, error) {
	file := &hostsFile{fileState: now}
	if now.missing {
		return file, nil
	}
	var err error
	if file.names, file.some, err = readHosts(h.path); err != nil {
		return nil, err
	}
	return file, nil
}

// readHosts reads a file in the format of hosts(5): an address and its names a
// line, comments behind #. Lines that make no sense are passed over, as resolvers
// do.
func readHosts(path string) (names map[string]*fixed, some bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	return parseHosts(f)
}

// parseHosts reads the lines of a hosts file. some says that they are not all blank.
func parseHosts(r io.Reader) (names map[string]*fixed, some bool, err error) {
	addrs := make(map[string][]netip.Addr)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxHostsFile) // as long as the lines of block lists may be
	read := 0
	for lines.Scan() && read < maxHostsFile {
		read += len(lines.Bytes()) + 1
		some = some || len(bytes.TrimSpace(lines.Bytes())) > 0
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
		return nil, false, err
	}
	names = make(map[string]*fixed, len(addrs))
	for name, list := range addrs {
		names[name] = newFixed(name, list)
	}
	return names, some, nil
}
