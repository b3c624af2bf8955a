package dnscache

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func hostsFileWith(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is static or in the hosts file is asked for nowhere else.
func TestHosts(t *testing.T) {
	file := hostsFileWith(t, `# a comment
127.0.0.1	localhost loop.test.   # and one behind
::1		localhost
192.0.2.1 One.Test two.test
192.0.2.2 two.test
192.0.2.9 static.test
not-an-address broken.test
192.0.2.3
`)
	b := new(script)
	c := New(Config{Backend: b, HostsFile: file, Static: map[string][]netip.Addr{
		"static.test": addrs("198.51.100.1", "2001:db8::1"),
		"mapped.test": addrs("::ffff:198.51.100.2"),
	}})
	for _, tc := range []struct {
		name string
		f    Family
		want []netip.Addr
	}{
		{"localhost", IPv4, addrs("127.0.0.1")},
		{"localhost", IPv6, addrs("::1")},
		{"loop.test", IPv4, addrs("127.0.0.1")},
		{"one.test", IPv4, addrs("192.0.2.1")},
		{"one.test", IPv6, nil},
		{"two.test", IPv4, addrs("192.0.2.1", "192.0.2.2")},
		{"static.test", IPv4, addrs("198.51.100.1")},
		{"static.test", IPv6, addrs("2001:db8::1")},
		{"mapped.test", IPv4, addrs("198.51.100.2")},
	} {
		a, fl := c.Lookup(tc.name, tc.f)
		if fl != nil || !slices.Equal(a.Addrs, tc.want) || tc.want == nil && !isNotFound(a.Err) {
			t.Errorf("%s %s: %+v", tc.name, tc.f, a)
		}
	}
	if b.asked.Load() != 0 {
		t.Error("the backend was asked")
	}
	if a, _ := ask(c, "broken.test", IPv4); a.Err == nil || b.asked.Load() != 1 {
		t.Errorf("broken.test: %+v", a)
	}
}

// Block lists have lines of any length, and what stands behind one counts.
func TestHostsFileLongLine(t *testing.T) {
	long := "192.0.2.1" + strings.Repeat(" x.test", 20_000)
	known, _, err := parseHosts(strings.NewReader("# " + long + "\n" + long + "\n192.0.2.2 behind.test\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.test", "behind.test"} {
		if known[name] == nil || len(known[name][IPv4].Addrs) != 1 {
			t.Errorf("%s: %+v", name, known[name])
		}
	}
}

// The hosts file is read again when it has changed, and not needed.
func TestHostsFileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hosts")
		var told []bool // that it is gone
		c := New(Config{Backend: new(script), HostsFile: path, TellHostsFile: func(err error) { told = append(told, err != nil) }})
		known := func(name string) bool {
			a, _ := ask(c, name, IPv4)
			return len(a.Addrs) == 1
		}
		steps := []struct {
			text string // "" removes the file
			one  bool
			two  bool
		}{
			{"", false, false},
			{"192.0.2.1 one.test\n", true, false},
			{"192.0.2.1 two.test\n", false, true}, // the same size
			{"192.0.2.1 one.test two.test\n", true, true},
			{"", false, false},
			{"", false, false},
			{"192.0.2.1 one.test\n", true, false},
		}
		for i, step := range steps {
			if step.text == "" {
				os.Remove(path)
			} else {
				if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
					t.Fatal(err)
				}
				// The clock of the file system is not that of the bubble.
				stamp := time.Unix(1_000_000+int64(i), 0)
				if err := os.Chtimes(path, stamp, stamp); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(hostsCheck)
			known("one.test") // has it looked at
			time.Sleep(hostsSettle + MaxNegativeTTL)
			if one, two := known("one.test"), known("two.test"); one != step.one || two != step.two {
				t.Errorf("step %d: %t %t", i, one, two)
			}
		}
		if !slices.Equal(told, []bool{true, false}) {
			t.Errorf("told that the file is gone: %v; want once, and once that it is back", told)
		}
		if err := os.WriteFile(path, []byte("192.0.2.1 two.test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if !known("one.test") {
			t.Error("the file is looked at with every question")
		}
	})
}

// A change of the hosts file is seen by the first question that comes when the file was left
// alone for a second, however busy the cache is, and whatever its times: one that is moved
// into place may be old, and the clock of a file server ahead.
func TestHostsFile_FirstQuestion(t *testing.T) {
	for name, tc := range map[string]struct {
		age   time.Duration // of the file when it is written
		every time.Duration // there is a question, 0: none
		after time.Duration
		twice bool // only the second question sees it
	}{
		"idle":          {0, 0, hostsSettle, false},
		"idle for long": {0, 0, time.Hour, false},
		"busy":          {0, 70 * time.Millisecond, hostsSettle, false},
		"moved":         {time.Hour, 0, hostsSettle, false},
		"moved, busy":   {time.Hour, 70 * time.Millisecond, hostsSettle, false},
		"ahead":         {-time.Hour, 70 * time.Millisecond, 2 * hostsSettle, false},
		"ahead, idle":   {-time.Hour, 0, hostsSettle, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := hostsFileWith(t, "192.0.2.1 one.test\n")
				c := New(Config{Backend: new(script), HostsFile: path})
				time.Sleep(time.Hour)
				busy := func(until time.Time) {
					for tc.every > 0 && time.Now().Add(tc.every).Before(until) {
						time.Sleep(tc.every)
						ask(c, "one.test", IPv4)
					}
					time.Sleep(time.Until(until))
				}
				busy(time.Now().Add(10 * time.Second))
				if err := os.WriteFile(path, []byte("192.0.2.2 one.test\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				stamp := time.Now().Add(-tc.age)
				if err := os.Chtimes(path, stamp, stamp); err != nil {
					t.Fatal(err)
				}
				busy(time.Now().Add(tc.after))
				a, _ := ask(c, "one.test", IPv4)
				if tc.twice {
					time.Sleep(hostsSettle)
					a, _ = ask(c, "one.test", IPv4)
				}
				if !slices.Equal(a.Addrs, addrs("192.0.2.2")) {
					t.Errorf("%+v", a)
				}
			})
		})
	}
}

// A hosts file is not taken while it is written: it is read when it was the same at two
// looks. One that is empty now is told, and keeps the names of before until something
// stands in it; what is only comments is meant.
func TestHostsFileInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := hostsFileWith(t, "192.0.2.1 one.test\n192.0.2.1 two.test\n")
		var told []error
		c := New(Config{Backend: new(script), HostsFile: path, TellHostsFile: func(err error) { told = append(told, err) }})
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			now := time.Now() // the clock of the file system is not that of the bubble
			if err := os.Chtimes(path, now, now); err != nil {
				t.Fatal(err)
			}
		}
		want := func(when string, one, two bool) {
			t.Helper()
			for name, want := range map[string]bool{"one.test": one, "two.test": two} {
				if a, _ := ask(c, name, IPv4); len(a.Addrs) == 1 != want {
					t.Errorf("%s: %s is known: %t", when, name, !want)
				}
			}
		}
		want("at first", true, true)
		time.Sleep(hostsCheck)
		write("192.0.2.1 one.test\n")
		want("while it is written", true, true)
		time.Sleep(hostsSettle)
		write("192.0.2.1 one.test\n192.0.2.1")
		want("while it is still written", true, true)
		time.Sleep(hostsSettle)
		write("192.0.2.1 one.test\n")
		want("when it was written", true, true)
		time.Sleep(hostsSettle)
		want("a moment later", true, false)
		if len(told) != 0 {
			t.Errorf("told: %v", told)
		}

		write("")
		time.Sleep(hostsCheck)
		want("emptied", true, false)
		for range 3 {
			time.Sleep(hostsCheck)
			want("emptied for longer", true, false)
		}
		if len(told) != 1 || !errors.Is(told[0], ErrHostsFileEmpty) {
			t.Errorf("told: %v", told)
		}
		write("192.0.2.1 two.test\n")
		time.Sleep(hostsCheck)
		want("filled", false, true)
		if len(told) != 2 || told[1] != nil {
			t.Errorf("told: %v", told)
		}
		write("# nobody\n")
		time.Sleep(hostsCheck)
		want("comments", false, false)
	})
}

// Of a hosts file that cannot be read the names of before stay, and it is looked at
// again, whether it has changed since or not.
func TestHostsFileUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, unreadable := filepath.Join(dir, "hosts"), filepath.Join(dir, "unreadable")
		if err := os.Mkdir(unreadable, 0o700); err != nil { // it opens, and cannot be read
			t.Fatal(err)
		}
		info, err := os.Stat(unreadable)
		if err != nil {
			t.Fatal(err)
		}
		next := "192.0.2.1 two.test\n"
		if info.Size() < int64(len(next)) {
			t.Skip("no directory that looks like a file")
		}
		next += strings.Repeat("\n", int(info.Size())-len(next))
		var told []error
		c := New(Config{Backend: new(script), HostsFile: path, TellHostsFile: func(err error) { told = append(told, err) }})
		stamp := time.Unix(1_000_000, 0)
		link := func(to string) {
			t.Helper()
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := os.Symlink(to, path); err != nil {
				t.Skip(err)
			}
		}
		for i, step := range []struct {
			prepare  func()
			one, two bool
		}{
			{func() { link(path) }, false, false}, // to itself
			{func() { link(hostsFileWith(t, "192.0.2.1 one.test\n")) }, true, false},
			{func() {
				if err := os.Chtimes(unreadable, stamp, stamp); err != nil {
					t.Fatal(err)
				}
				link(unreadable)
			}, true, false},
			{func() {}, true, false},
			{func() { link(path) }, true, false},
			{func() {
				file := hostsFileWith(t, next)
				if err := os.Chtimes(file, stamp, stamp); err != nil {
					t.Fatal(err)
				}
				link(file) // of the same time and size
			}, false, true},
			{func() { _ = os.Remove(path) }, false, false},
		} {
			step.prepare()
			time.Sleep(hostsCheck)
			ask(c, "one.test", IPv4) // has it looked at
			time.Sleep(hostsSettle + MaxNegativeTTL)
			one, _ := ask(c, "one.test", IPv4)
			two, _ := ask(c, "two.test", IPv4)
			if (len(one.Addrs) == 1) != step.one || (len(two.Addrs) == 1) != step.two {
				t.Errorf("step %d: %+v, %+v", i, one, two)
			}
		}
		var kinds []string
		for _, err := range told {
			switch {
			case err == nil:
				kinds = append(kinds, "back")
			case errors.Is(err, fs.ErrNotExist):
				kinds = append(kinds, "gone")
			default:
				kinds = append(kinds, "unreadable")
			}
		}
		if want := []string{"unreadable", "back", "unreadable", "back", "gone"}; !slices.Equal(kinds, want) {
			t.Errorf("told %q, want %q", kinds, want)
		}
	})
}
