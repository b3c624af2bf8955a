//go:build !linux

package peers

import (
	"fmt"
	"runtime"
)

// process exists on Linux only: the descendants of a process are found in /proc.
type process struct {
	pid  int
	done chan struct{}
}

func startProcess(string, []string, string) (*process, error) {
	return nil, fmt.Errorf("%w: peers run on Linux, not on %s", ErrNotInstalled, runtime.GOOS)
}

func (p *process) said() string     { return "" }
func (p *process) pause() error     { return ErrNotInstalled }
func (p *process) resume() error    { return ErrNotInstalled }
func (p *process) stop(bool)        {}
func (p *process) listens(int) bool { return false }
