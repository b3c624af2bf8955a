package acl

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/aclmodel"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// WriteFile writes a file as configuration management does: at once.
func writeFile(t testing.TB, path, content string) {
	t.Helper()
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func subjectFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list.txt")
	writeFile(t, path, content)
	return path
}

func TestSubjectFile_Format(t *testing.T) {
	path := subjectFile(t, "\ufeff# ads\r\n\r\n  ads.example  \r\n\t*.Tracker.example # comment\r\n#all\n   # indented\n10.0.0.0/8#x\n[2001:db8::1]:443\nbücher.example\n8.8.8.8\n2001:4860::1:443")
	l, err := New([]Rule{{Files: []string{path}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.files != 7 {
		t.Errorf("%d subjects", l.files)
	}
	deny := func(reason string) string { return reason + ": deny_file " + path }
	for _, tc := range []struct{ dest, want string }{
		{"ads.example:443", deny("host")},
		{"x.ads.example:443", ""},
		{"x.tracker.example:443", deny("host")},
		{"xn--bcher-kva.example:443", deny("host")},
		{"8.8.8.8:443", deny("address")},
		{"8.8.8.9:443", ""},
		{"[2001:4860::1:443]:80", deny("address")},
		{"[2001:db8::1]:443", deny("address")},
		{"[2001:db8::1]:80", "address: default deny: documentation"},
		{"other.example:443", ""},
	} {
		if got := verdictOf(t, l.CheckTarget(mustTarget(t, tc.dest))); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.dest, got, tc.want)
		}
	}
}

func TestSubjectFile_Errors(t *testing.T) {
	dir := t.TempDir()
	long := subjectFile(t, "ok.example\n"+strings.Repeat("x", maxSubjectLine+1)+"\n")
	for _, tc := range []struct{ path, want string }{
		{"", "acl[0]: a file needs a path"},
		{filepath.Join(dir, "none"), "acl[0]: file: stat " + filepath.Join(dir, "none") + ": no such file or directory"},
		{dir, "acl[0]: file: " + dir + " is not a regular file"},
		{long, "acl[0]: " + long + ":2: the line is longer than 4096 bytes"},
	} {
		if _, err := New([]Rule{{Files: []string{tc.path}}}, nil); err == nil || err.Error() != tc.want {
			t.Errorf("%s:\n got %v\nwant %s", tc.path, err, tc.want)
		}
	}
	for _, tc := range []struct{ content, want string }{
		{"a.example\n\n# x\nb example\n", "4: subject 'b example': it has a space"},
		{"10.0.0.1/8", "1: subject '10.0.0.1/8': the address has bits beyond its length; write '10.0.0.0/8', or '10.0.0.1' for the address alone"},
		{"\r\n\r\nhttps://a.example/", "3: subject 'https://a.example/': a URL; write its host only"},
		{"*", "1: subject '*': write 'all' for every destination"},
		{"a.example\nb.example:80", "2: subject 'b.example:80': a host name takes no port; write 'b.example'"},
		{"a.example\nb\x00c\x1b.example", "2: subject 'b\uFFFDc\uFFFD.example': it has the control byte 0x00"},
		{"a.example\n8080", "2: subject '8080': would be the address 0.0.31.144; write '0.0.31.144' if that is meant, and a CIDR such as '10.0.0.0/8' for a range"},
		{"0.0.0.0 ads.example", "1: subject '0.0.0.0 ads.example': a line of a hosts file; write one name a line, without an address"},
		{"a.example\n\xff\xfe", "2: subject '\uFFFD\uFFFD': the host is not valid UTF-8"},
		{strings.Repeat("x", 64) + ".example", "1: subject '" + strings.Repeat("x", 64) + ".example': the host has a label longer than 63 bytes"},
	} {
		path := subjectFile(t, tc.content)
		_, err := New([]Rule{{Subjects: []string{"all"}}, {Files: []string{path}}}, nil)
		if want := "acl[1]: " + path + ":" + tc.want; err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", tc.content, err, want)
		}
	}
}

// A file stands where its rule does, and among its lines the order does not matter:
// a name is refused before it is resolved though an address stands before it.
func TestSubjectFile_Order(t *testing.T) {
	deny := subjectFile(t, "10.0.0.0/8\nbad.example\n*.evil.example\n")
	allow := subjectFile(t, "good.evil.example\n10.1.0.0/16\n")
	rules := []Rule{
		{Allow: true, Files: []string{allow}},
		{Subjects: []string{"first.example"}, Files: []string{deny}},
		{Allow: true, Subjects: []string{"bad.example", "10.2.0.0/16"}},
	}
	l, err := New(rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ dest, ip, want string }{
		{"good.evil.example:443", "8.8.8.8", ""},
		{"bad.evil.example:443", "8.8.8.8", "host: deny_file " + deny},
		{"first.example:443", "8.8.8.8", "host: deny first.example"},
		{"bad.example:443", "8.8.8.8", "host: deny_file " + deny},
		{"x.example:443", "10.1.0.1", ""},
		{"x.example:443", "10.2.0.1", "address: deny_file " + deny},
	} {
		tgt := mustTarget(t, tc.dest)
		if got := verdictOf(t, l.CheckAddr(tgt, netip.MustParseAddr(tc.ip))); got != tc.want {
			t.Errorf("%s at %s: %q, want %q", tc.dest, tc.ip, got, tc.want)
		}
	}
	alone, err := New(rules[1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := verdictOf(t, alone.CheckTarget(mustTarget(t, "bad.example:443"))); got != "host: deny_file "+deny {
		t.Errorf("bad.example before it is resolved: %q", got)
	}
}

// An empty file is a list without subjects.
func TestSubjectFile_Empty(t *testing.T) {
	for _, content := range []string{"", "\n", "# nothing\n", "\ufeff"} {
		l, err := New([]Rule{{Files: []string{subjectFile(t, content)}}}, nil)
		if err != nil {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if err := l.CheckTarget(mustTarget(t, "x.example:443")); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// FuzzSubjectFile: whatever a file holds, it is read to the end or refused with
// its line, and what is read is what parseSubject makes of the lines one by one.
func FuzzSubjectFile(f *testing.F) {
	f.Add("# list\r\nads.example\r\n*.tracker.example\n10.0.0.0/8\n")
	f.Add("\ufeffall\nprivate\n[::1]:80\n127.0.0.1:8080#x")
	f.Add("bücher.example\n  \t\n8.8.8.8")
	f.Add("a b\n")
	f.Add(strings.Repeat("x", maxSubjectLine) + "\n")
	for _, s := range aclmodel.Subjects {
		f.Add(s + "\n" + s)
	}
	f.Fuzz(func(t *testing.T, content string) {
		var got []subject
		err := plaintext.ScanLines("f", strings.NewReader(content), maxSubjectLine, eachSubject(func(s subject) error {
			got = append(got, s)
			return nil
		}))
		if err != nil {
			if line := 0; !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("%q does not name its place", err)
			} else if _, scan := fmt.Sscanf(err.Error(), "f:%d:", &line); scan != nil || line < 1 || line > strings.Count(content, "\n")+1 {
				t.Fatalf("%q names line %d", err, line)
			}
			return
		}
		i := 0
		for line := range strings.SplitSeq(strings.TrimPrefix(content, "\ufeff"), "\n") {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			want, err := parseSubject(line)
			if err != nil || i >= len(got) || got[i].name != want.name || got[i].all != want.all || got[i].port != want.port ||
				got[i].wildcard != want.wildcard || got[i].private != want.private || !slices.Equal(got[i].prefixes, want.prefixes) {
				t.Fatalf("line %q is %+v (%v) and was read as number %d of %+v", line, want, err, i, got)
			}
			i++
		}
		if i != len(got) {
			t.Fatalf("%d subjects of %d lines", len(got), i)
		}
	})
}
