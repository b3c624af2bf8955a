//go:build unix

package dnscache

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// unreadableHosts is a cache with a hosts file that could not be read yet: a link to
// itself. put replaces it.
func unreadableHosts(t *testing.T, b Backend) (c *Cache, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "hosts")
	if err := os.Symlink(path, path); err != nil {
		t.Skip(err)
	}
	return New(Config{Backend: b, HostsFile: path}), path
}

// As long as nothing of the hosts file is known, one question reads it, and all others
// wait for that: a second reader of a pipe would find nothing in it.
func TestHostsFile_FirstRead(t *testing.T) {
	b := new(script)
	c, path := unreadableHosts(t, b)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	var begun, done sync.WaitGroup
	answers := make([]Answer, 40)
	for i := range answers {
		begun.Add(1)
		done.Go(func() {
			a, fl := c.Lookup(fmt.Sprintf("n%d.test", i), IPv4)
			begun.Done()
			if fl != nil {
				<-fl.Done()
				a = fl.Answer()
				fl.Leave()
			}
			answers[i] = a
		})
	}
	waiting := make(chan struct{})
	go func() { begun.Wait(); close(waiting) }()
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0) // when somebody reads
	if err != nil {
		t.Fatal(err)
	}
	<-waiting // not for the file, but with a flight
	for i := range answers {
		fmt.Fprintf(pipe, "192.0.2.1 n%d.test\n", i)
	}
	_ = pipe.Close()
	done.Wait()
	for i, a := range answers {
		if !slices.Equal(a.Addrs, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
			t.Errorf("n%d.test: %+v", i, a)
		}
	}
	if n := b.asked.Load(); n != 0 {
		t.Errorf("the backend was asked %d times", n)
	}
}

// Of a hosts file that was never read and cannot be, nothing is known: its names are not
// asked for elsewhere, and it is read as soon as it can be.
func TestHostsFile_FirstReadFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(path string) (repair func())
		want  error
	}{
		{"link to itself", func(path string) func() { return func() { _ = os.Remove(path) } }, syscall.ELOOP},
		{"no descriptor", func(path string) func() {
			_ = os.Remove(path)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return withoutDescriptors(t)
		}, syscall.EMFILE},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := new(script)
			c, path := unreadableHosts(t, b)
			repair := tc.spoil(path)
			a, _ := ask(c, "one.test", IPv4)
			repair()
			if !errors.Is(a.Err, tc.want) || !errors.Is(a.Err, ErrHostsFile) {
				t.Errorf("%v is not %v", a.Err, tc.want)
			}
			if err := os.WriteFile(path, []byte("192.0.2.1 one.test\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if a, _ := ask(c, "one.test", IPv4); len(a.Addrs) != 1 {
				t.Errorf("it can be read: %+v", a)
			}
			if n := b.asked.Load(); n != 0 {
				t.Errorf("the backend was asked %d times", n)
			}
		})
	}
}

// withoutDescriptors leaves the process none until the function that it returns is called.
func withoutDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Skip(err)
	}
	restore = sync.OnceFunc(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(restore)
	return restore
}

// A hosts file that this process may not read names nobody, as for other resolvers.
func TestHostsFile_NotAllowed(t *testing.T) {
	path := hostsFileWith(t, "192.0.2.1 one.test\n")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(path); err == nil {
		_ = f.Close()
		t.Skip("this user may read everything")
	}
	b := new(script)
	if a, _ := ask(New(Config{Backend: b, HostsFile: path}), "one.test", IPv4); errors.Is(a.Err, ErrHostsFile) || b.asked.Load() != 1 {
		t.Errorf("%+v, the backend was asked %d times", a, b.asked.Load())
	}
}
