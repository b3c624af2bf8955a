//go:build unix

package egress

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-egress/egress/internal/acl"
)

// A pipe is refused, and not waited for until somebody writes to it.
func TestListFile_Pipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	want := "acl[0]: file: " + pipe + " is not a regular file"
	if _, err := acl.New([]acl.Rule{{Files: []string{pipe}}}, nil); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	want = "file: " + pipe + " is not a regular file"
	_, _, err := loadWithApps(t, `{"groups": {"default": {"file": "`+pipe+`"}}}`)
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("upstreams: got %v, want %s", err, want)
	}
}
