package dnscache

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
	file   atomic.Pointer[hostsFile]
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
			out[f] = Answer{Err: notFound(name, f, false)}
		}
	}
	return out
}

// lookup returns the addresses of a name that is known here. Of such a name
// nothing is asked elsewhere, also where it has no address of the family.
func (h *hosts) lookup(name string, f Family, now time.Time) (Answer, bool) {
	if known, ok := h.static[name]; ok {
		return known[f], true
	}
	if h.path == "" {
		return Answer{}, false
	}
	if known, ok := h.current(now).names[name]; ok {
		return known[f], true
	}
	return Answer{}, false
}

// current is the content of the file, read again if it has changed since it was
// last looked at. Whoever comes while another looks gets the content from before.
func (h *hosts) current(now time.Time) *hostsFile {
	file := h.file.Load()
	if file != nil {
		last := file.checked.Load()
		if now.UnixNano()-last < int64(hostsCheck) || !file.checked.CompareAndSwap(last, now.UnixNano()) {
			return file
		}
	}
	next, err := h.read(file)
	if err != nil { // what it held last stays, and it is looked at again
		if next = file; next == nil {
			next = new(hostsFile)
		}
	}
	if next != file {
		next.checked.Store(now.UnixNano())
		h.file.Store(next)
	}
	return next
}

// read is what the file holds, which is last where it has not changed. One that is
// gone names nobody; of one that cannot be read nothing is known.
func (h *hosts) read(last *hostsFile) (*hostsFile, error) {
	info, err := os.Stat(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if last != nil && len(last.names) == 0 {
			return last, nil
		}
		return new(hostsFile), nil
	case err != nil:
		return nil, err
	case last != nil && info.ModTime().Equal(last.modTime) && info.Size() == last.size:
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
