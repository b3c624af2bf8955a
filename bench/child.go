//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// The benchmark runs itself, with the name of a part as its first argument, for
// everything that is not the proxy under test. Part and parent speak in lines:
// the part prints one JSON value when it is ready and one for each line that it
// reads, and ends when its standard input does.

// serveParent is the part's side of it.
func serveParent(ready any, answer func() any) error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(ready); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := out.Encode(answer()); err != nil {
			return err
		}
	}
	return in.Err()
}

// child is a part, as seen by the parent.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// startSelf starts a part and reads into ready what it prints first.
func startSelf(ctx context.Context, ready any, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: command(ctx, self, args...)}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.out.Decode(ready); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w", args[0], err)
	}
	return c, nil
}

// ask sends an empty line and reads the answer.
func (c *child) ask(answer any) error {
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		return err
	}
	return c.out.Decode(answer)
}

// stop ends the part and waits for it.
func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// command is a process that does not outlive this one.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
