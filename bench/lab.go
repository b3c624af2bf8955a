//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// lab is what the subjects have in common.
type lab struct {
	ctx      context.Context
	dir      string // for what they write
	source   string // of this module
	refcaddy string // the binary
	goproxy  string // the binary; empty until it is built
	silent   string // the binary of refcaddy without metrics; empty until it is built
	cert     testcert.Files
	origin   *child
	listener map[string]string // the origin's, by name

	hasty   bool             // memory is read as it is, once
	absent  map[string]error // subjects that were looked at; nil: it is there
	skipped []string         // what is not measured, and why
}

// newLab builds the binary of the Caddy subjects and starts an origin.
func newLab(ctx context.Context, dir string) (*lab, error) {
	l := &lab{ctx: ctx, dir: dir, refcaddy: filepath.Join(dir, "refcaddy"), absent: make(map[string]error)}
	const module = "github.com/caddy-egress/egress"
	list := command(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Stderr = os.Stderr
	source, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("looking for the source of %s: %w", module, err)
	}
	l.source = strings.TrimSpace(string(source))
	if err := l.build(l.refcaddy, l.source, "./bench/refcaddy"); err != nil {
		return nil, err
	}
	if l.cert, _, err = testcert.New(dir); err != nil {
		return nil, err
	}
	l.origin, err = startSelf(ctx, &l.listener, "origin", l.cert.Cert, l.cert.Key)
	return l, err
}

// build compiles a package that lies below a directory.
func (l *lab) build(binary, dir, pkg string, flags ...string) error {
	build := command(l.ctx, "go", slices.Concat([]string{"build", "-o", binary}, flags, []string{pkg})...)
	build.Dir = dir
	var said bytes.Buffer
	build.Stderr = &said
	if err := build.Run(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, strings.TrimSpace(said.String()))
	}
	return nil
}
